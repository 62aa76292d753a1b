"""The probe of the image's health check, against a real health service."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from service.probe import serving


@pytest.fixture
def draining() -> Iterator[int]:
    """The port of a server that is alive and not ready."""
    health = HealthServicer()
    health.set("", HealthCheckResponse.NOT_SERVING)
    health.set("liveness", HealthCheckResponse.SERVING)
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("service", "expected"), [("liveness", True), ("", False), ("a service nobody registered", False)]
)
def test_it_believes_serving_only(draining: int, service: str, expected: bool) -> None:
    assert serving(f"127.0.0.1:{draining}", service) is expected


@pytest.mark.parametrize(("arguments", "code"), [(["liveness"], 0), ([], 1)])
def test_as_a_program_it_exits_with_the_answer(draining: int, arguments: list[str], code: int) -> None:
    probe = [sys.executable, "-m", "service.probe", *arguments]
    done = subprocess.run(probe, env={**os.environ, "CELLWIRE_PORT": str(draining)}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, b"")


def test_no_server_is_a_no() -> None:
    assert serving("127.0.0.1:1", "") is False
