"""Errors out of google.rpc.Status."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cellwire import errors
from cellwire.v1 import resume_pb2
from service import errors as service_errors
from tests.cellwire.fake import status

LIST = [
    kind
    for kind in vars(service_errors).values()
    if isinstance(kind, type) and issubclass(kind, service_errors.CellwireError)
]


@pytest.mark.parametrize("kind", LIST, ids=lambda kind: kind.__name__)
def test_every_reason_of_the_service_has_a_class_of_the_same_name(kind: type[service_errors.CellwireError]) -> None:
    known = errors.CellwireError.named(kind.reason)
    assert known.reason == kind.reason
    assert known.__name__ == kind.__name__ or kind.reason == "INTERNAL"


def test_details_are_read() -> None:
    place = resume_pb2.Position(step=4, h=b"h" * 16, epoch=9, incarnation=b"i" * 16, store_id=b"store")
    told = status(code_pb2.ABORTED, "STALE_OPEN", delay=1.5, at=place)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="inputs[0]", description="float32[512]")
    packed = AnyMessage()
    packed.Pack(bad)
    told.details.append(packed)
    error = errors.from_status(told)
    assert isinstance(error, errors.StaleOpen)
    assert error.code is grpc.StatusCode.ABORTED
    assert error.retry_after == 1.5
    assert error.fields == (("inputs[0]", "float32[512]"),)
    assert error.position == errors.Position(4, b"h" * 16, 9, b"i" * 16, b"store")
    assert str(error) == "STALE_OPEN: made for a test: STALE_OPEN (inputs[0]: float32[512])"


def test_a_field_that_the_message_tells_is_not_told_twice() -> None:
    fields = (("inputs.x.data", "finite numbers"),)
    told = errors.InvalidInput("inputs.x.data: finite numbers", fields=fields)
    assert str(told) == "INVALID_INPUT: inputs.x.data: finite numbers"


def test_an_unknown_reason_keeps_its_name() -> None:
    error = errors.from_status(status(code_pb2.FAILED_PRECONDITION, "SOMETHING_NEW"))
    assert type(error) is errors.CellwireError
    assert error.reason == "SOMETHING_NEW"
    assert error.remedy is errors.Remedy.SURFACE


def test_a_reason_of_another_domain_is_not_ours() -> None:
    packed = AnyMessage()
    packed.Pack(error_details_pb2.ErrorInfo(reason="SUPERSEDED", domain="proxy.example"))
    told = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="no upstream", details=[packed])
    assert isinstance(errors.from_status(told), errors.Disconnected)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"])
def test_a_broken_transport_is_worth_another_try(code: str) -> None:
    assert isinstance(errors.from_rpc(grpc.StatusCode[code], "broken", None), errors.Disconnected)


@pytest.mark.parametrize("code", ["UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"])
def test_a_refusal_without_details_is_surfaced(code: str) -> None:
    error = errors.from_rpc(grpc.StatusCode[code], None, (("other", "x"),))
    assert error.remedy is errors.Remedy.SURFACE
    assert error.reason == code


def test_the_status_in_the_trailers_is_what_counts() -> None:
    trailers = (("grpc-status-details-bin", status(code_pb2.ABORTED, "SUPERSEDED").SerializeToString()),)
    assert isinstance(errors.from_rpc(grpc.StatusCode.ABORTED, "text", trailers), errors.Superseded)
