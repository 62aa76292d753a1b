"""The synchronous form against a real replica in another process."""

import threading
from collections.abc import Iterator

import pytest

from cellwire import errors
from cellwire.resume import ResumePoint
from cellwire.sync import Client
from cellwire.tensors import Frame
from models.cells import checked
from tests.harness import ReplicaProcess, number

INPUTS = list(range(100, 140))


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    """Of the shared replica."""
    with Client(target) as client:
        yield client


def test_it_survives_the_loss_of_its_replica(two_replicas: tuple[ReplicaProcess, ReplicaProcess]) -> None:
    frames: Iterator[Frame] = (number(x) for x in INPUTS)
    targets = [replica.target() for replica in two_replicas]
    with Client(targets) as client, client.session("s", model="checker") as session:
        holder = next(each for each in two_replicas if each.target() == session.opened.target)
        outputs = []
        for reply in session.stream(frames):
            outputs.append(int(reply.outputs["y"][0]))
            if reply.step == 11:
                holder.kill()
        outputs.append(int(session.step(number(7)).outputs["y"][0]))
        assert session.last_step == len(INPUTS) + 1
        assert len(session.resumptions) == 1
    assert outputs == checked([*INPUTS, 7])


def test_leaving_closes(client: Client) -> None:
    with client.session("s-closed", model="checker") as session:
        session.step(number(1))
    with pytest.raises(errors.SessionClosed):
        client.session(resume=session.resume_point).__enter__()


def test_a_source_may_wait_and_be_left(client: Client) -> None:
    wanted = threading.Event()
    left = threading.Event()

    def source() -> Iterator[Frame]:
        try:
            yield number(1)
            yield number(2)
            wanted.wait()
            while True:
                yield number(3)
        finally:
            left.set()

    with client.session("s-waits", model="checker") as session:
        for reply in session.stream(source()):
            if reply.step == 2:
                break
    wanted.set()
    assert left.wait(10)


def test_what_a_source_raises_is_raised(client: Client) -> None:
    def source() -> Iterator[Frame]:
        yield number(1)
        raise ZeroDivisionError

    with client.session("s-raises", model="checker") as session:
        with pytest.raises(ZeroDivisionError):
            list(session.stream(source()))
        assert session.last_step == 1


def test_the_first_unary_step_joins_nobody_elses_session(client: Client) -> None:
    with client.session("u-taken", model="checker") as session:
        session.step(number(1))
        with pytest.raises(errors.SessionExists):
            client.step(ResumePoint.new("u-taken", "checker"), number(2))
        assert int(session.step(number(2)).outputs["y"][0]) == checked([1, 2])[-1]


def test_unary_steps_and_facts(client: Client) -> None:
    reply, point = client.step(ResumePoint.new("u", "checker"), number(5))
    again, _ = client.step(point, number(6))
    assert [int(r.outputs["y"][0]) for r in (reply, again)] == checked([5, 6])
    assert client.model("checker").inputs[0].shape == (1,)
    assert "checker" in {model.name for model in client.models()}
