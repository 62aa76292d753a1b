"""Abuse of HTTP/2 and of gRPC's framing, by number: what the library answers, and that nobody else notices.

In every case a neighbour on another connection goes on stepping and gets the uninterrupted answers, the process lives,
its memory stays, and nothing that a client reads shows the inside of the service.
"""

import asyncio
import gzip
import os
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from tests.access import users
from tests.harness import Place, ReplicaProcess, WireStream, arrays, number
from tests.hostile import good, seen, until
from tests.raw_http2 import PREFACE, Answer, Closed, Header, RawConnection, grpc_message, request_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = "/cellwire.v1.CellService/Stream"
CALL = grpc_message(b"")
"""An empty message, which ListModels takes."""
MIB = 1 << 20
GROWTH = 48 * MIB
"""Of a replica in one case; what the heap keeps of a flood that is over."""
OK, INTERNAL, DEADLINE_EXCEEDED, UNIMPLEMENTED, RESOURCE_EXHAUSTED = "0", "13", "4", "12", "8"
PROTOCOL_ERROR, ENHANCE_YOUR_CALM = 1, 11


@dataclass
class Scene:
    """One replica for all cases, and the neighbour."""

    replica: ReplicaProcess
    target: str
    channel: grpc.aio.Channel
    neighbour: WireStream
    taken: list[int] = field(default_factory=list)

    async def advance(self) -> None:
        """The neighbour's next step."""
        self.taken.append(random.randrange(100))
        reply = await self.neighbour.replied(len(self.taken), number(self.taken[-1]))
        assert int(arrays(reply.outputs)["y"][0]) == checked(self.taken)[-1]

    def memory(self) -> int:
        """Resident bytes of the replica."""
        pages = Path(f"/proc/{self.replica.child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def connect(self, settings: dict[int, int] | None = None, preface: bool = True) -> RawConnection:
        return await RawConnection.connect(self.target, settings, preface)

    async def serves(self, connection: RawConnection, stream: int) -> None:
        """The connection is as good as before."""
        connection.call(stream, headers(), CALL)
        assert (await connection.answer(stream)).status == OK


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(test_models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    with Children() as children, EmbeddedStore(children, users=users()) as store:
        place = Place(store.url, "http2", (test_models,))
        replica = ReplicaProcess(children, place, tmp_path_factory.mktemp("http2"), "replica")
        target = replica.target()
        async with grpc.aio.insecure_channel(target) as channel:
            neighbour = WireStream(channel)
            await neighbour.open("neighbour")
            yield Scene(replica, target, channel, neighbour)
            await neighbour.close()
        assert replica.terminate() == 0
        assert "internal_error" not in replica.log.read_text()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unnoticed(scene: Scene) -> AsyncIterator[None]:
    """The neighbour steps all the while, and after it."""
    over = asyncio.Event()
    before = scene.memory()

    async def step() -> None:
        while not over.is_set():
            await scene.advance()

    stepping = asyncio.create_task(step())
    yield
    over.set()
    await stepping
    await scene.advance()
    now = await seen(scene.channel, "neighbour")
    assert now.step == len(scene.taken)
    assert scene.memory() < before + GROWTH
    assert scene.replica.child.poll() is None


def headers(*more: Header, path: str = "/cellwire.v1.ModelService/ListModels", **instead: str | None) -> list[Header]:
    return request_headers(path, more, **instead)


def private(answer: Answer) -> Answer:
    """It shows nothing of the inside."""
    assert not any(word in answer.text() for word in ("Traceback", ".py", "Exception", "/site-packages"))
    return answer


# What is no HTTP/2


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(random.Random(1).randbytes(5000), id="1-random"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", id="2-http-1"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), id="4-tls"),
        pytest.param(PREFACE + random.Random(2).randbytes(5000), id="1-random-behind-the-preface"),
        pytest.param(PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(50_000), id="a-frame-of-16-MiB"),
    ],
)
async def test_what_is_no_http2_is_closed(scene: Scene, raw: bytes) -> None:
    async with await scene.connect(preface=False) as connection:
        connection.write(raw)
        await connection.closed()


Abuse = Callable[[RawConnection], None]


def _increment_of_zero(connection: RawConnection) -> None:
    connection.write(WindowUpdateFrame(0, window_increment=1).serialize()[:-4] + bytes(4))


BROKEN: list[object] = [
    pytest.param(_increment_of_zero, id="25-window-update-of-zero"),
    pytest.param(lambda c: c.frame(HeadersFrame(1, b"\xff" * 40, flags=["END_HEADERS"])), id="headers-that-are-none"),
    pytest.param(lambda c: c.frame(ContinuationFrame(1, b"")), id="21-a-continuation-of-nothing"),
    pytest.param(lambda c: c.write(b"\x40\x00\x01\x00\x00\x00\x00\x00\x01"), id="a-frame-beyond-its-size"),
]


@pytest.mark.parametrize("abuse", BROKEN)
async def test_a_broken_frame_closes_its_connection(scene: Scene, abuse: Abuse) -> None:
    async with await scene.connect() as connection:
        abuse(connection)
        await connection.closed()


IGNORED: list[object] = [
    pytest.param(lambda c: c.call(2, headers(), CALL), id="26-an-even-stream"),
    pytest.param(lambda c: (c.headers(7, headers()), c.headers(5, headers())), id="26-streams-that-go-down"),
    pytest.param(lambda c: [c.frame(WindowUpdateFrame(0, 2**31 - 1)) for _ in range(3)], id="25-overflow"),
    pytest.param(lambda c: c.frame(DataFrame(999, b"x")), id="data-of-no-stream"),
    pytest.param(lambda c: c.frame(RstStreamFrame(999, 8)), id="a-reset-of-no-stream"),
]


@pytest.mark.parametrize("abuse", IGNORED)
async def test_a_frame_of_no_meaning_closes_the_connection_or_is_ignored(scene: Scene, abuse: Abuse) -> None:
    async with await scene.connect() as connection:
        abuse(connection)
        try:
            await scene.serves(connection, 1001)
        except Closed:
            return
        assert not {2, 5} & connection.answers.keys()


# Requests that are none


REQUESTS: list[object] = [
    pytest.param(headers(path="/cellwire.v1.CellService/Nothing"), (UNIMPLEMENTED,), id="5-unknown-method"),
    pytest.param(headers(path="/nobody.Nothing/Nothing"), (UNIMPLEMENTED,), id="6-unknown-service"),
    pytest.param(headers(path="nothing"), (UNIMPLEMENTED,), id="6-no-path"),
    pytest.param(headers(path="/" + "x" * 5000), (UNIMPLEMENTED,), id="6-a-long-path"),
    # the library takes any content type for gRPC, and the message is parsed as one
    pytest.param(headers(content_type="text/html"), (OK,), id="7-another-content-type"),
    pytest.param(headers(content_type=None), (OK,), id="7-no-content-type"),
    pytest.param(headers(method="GET"), (None,), id="7-get"),
    pytest.param(headers(te="gzip"), (INTERNAL,), id="8-bad-te"),
    pytest.param(headers(te=None), (None,), id="8-no-te"),
    pytest.param(headers(("x", "y" * 9000), te="gzip"), (INTERNAL, RESOURCE_EXHAUSTED), id="8-bad-te-and-large"),
    pytest.param(headers(scheme="ftp"), (INTERNAL,), id="9-bad-scheme"),
    pytest.param(headers(scheme=None), (None,), id="9-no-scheme"),
    # of two paths the library takes the last
    pytest.param([(":path", "/nothing/Nothing"), *headers()], (OK,), id="10-two-paths"),
    pytest.param(headers((":path", "/nothing/Nothing")), (UNIMPLEMENTED,), id="10-a-second-path"),
    pytest.param(headers(("X-Upper", "y")), (INTERNAL,), id="10-a-header-in-capitals"),
    pytest.param(headers(("x", "y" * 12_000)), (OK, RESOURCE_EXHAUSTED), id="11-metadata-above-the-soft-limit"),
    pytest.param(headers(("x", "y" * 17_000)), (RESOURCE_EXHAUSTED,), id="12-metadata-above-the-limit"),
    pytest.param(headers(*[("x", "y")] * 10_000), (RESOURCE_EXHAUSTED,), id="88-ten-thousand-entries"),
    pytest.param(headers(("x-bin", "!not base64!")), (INTERNAL,), id="13-binary-metadata-that-is-not"),
    pytest.param(headers(("grpc-encoding", "brotli")), (INTERNAL,), id="18-unknown-encoding"),
    pytest.param(headers(("grpc-timeout", "soon")), (INTERNAL,), id="28-a-timeout-that-is-none"),
    pytest.param(headers(("grpc-timeout", "-1S")), (INTERNAL,), id="28-a-negative-timeout"),
    pytest.param(headers(("grpc-timeout", "99999999999S")), (OK,), id="28-a-timeout-of-ages"),
    # a call that needs no wait may be over before the library looks at its clock
    pytest.param(headers(("grpc-timeout", "1n")), (OK, DEADLINE_EXCEEDED), id="29-a-nanosecond"),
]


@pytest.mark.parametrize(("request_", "statuses"), REQUESTS)
async def test_a_request_is_answered_and_its_connection_goes_on(
    scene: Scene, request_: list[Header], statuses: tuple[str | None, ...]
) -> None:
    async with await scene.connect() as connection:
        connection.call(1, request_, CALL)
        answer = private(await connection.answer(1))
        assert answer.status in statuses, answer
        assert answer.status or answer.reset is not None
        await scene.serves(connection, 3)


LIMIT = MIB + 64 * 1024
GZIP = ("grpc-encoding", "gzip")
MESSAGES: list[object] = [
    pytest.param(grpc_message(b"", length=LIMIT + 1), (), RESOURCE_EXHAUSTED, id="14-too-large"),
    pytest.param(grpc_message(b"", length=0xFFFFFFFF), (), RESOURCE_EXHAUSTED, id="15-four-GiB"),
    pytest.param(grpc_message(b"abc", compressed=1), (), INTERNAL, id="17-compressed-without-an-encoding"),
    pytest.param(grpc_message(gzip.compress(bytes(60 * MIB)), compressed=1), (GZIP,), RESOURCE_EXHAUSTED, id="19-bomb"),
    pytest.param(grpc_message(b"abc", compressed=1), (GZIP,), INTERNAL, id="19-no-gzip"),
    # the library waits for the rest of a message although the client has ended its side
    pytest.param(grpc_message(b"abc", length=100), (("grpc-timeout", "200m"),), DEADLINE_EXCEEDED, id="16-truncated"),
    pytest.param(b"\0\0", (("grpc-timeout", "200m"),), DEADLINE_EXCEEDED, id="16-truncated-in-its-prefix"),
    pytest.param(b"", (("grpc-timeout", "200m"),), DEADLINE_EXCEEDED, id="16-no-message"),
]


@pytest.mark.parametrize(("data", "more", "status"), MESSAGES)
async def test_a_message_that_is_none_ends_its_call_only(
    scene: Scene, data: bytes, more: tuple[Header, ...], status: str
) -> None:
    async with await scene.connect() as connection:
        connection.call(1, headers(*more), data)
        assert private(await connection.answer(1)).status == status
        await scene.serves(connection, 3)


# Floods


async def flood(connection: RawConnection, parts: Iterable[bytes]) -> bool:
    """Sends them all: False when the server has closed the connection meanwhile."""
    try:
        for part in parts:
            connection.write(part)
            await connection.drain()
        await connection.ping()
    except (Closed, ConnectionError):
        return False
    return True


async def test_20_streams_that_are_reset_at_once(scene: Scene) -> None:
    async with await scene.connect() as connection:
        block = connection.block(headers(path=STREAM))

        def reset(stream: int) -> bytes:
            opened = HeadersFrame(stream, block, flags=["END_HEADERS"])
            return opened.serialize() + RstStreamFrame(stream, error_code=8).serialize()

        streams = range(1, 40_000, 2)
        await flood(connection, (b"".join(map(reset, streams[at : at + 500])) for at in range(0, len(streams), 500)))


@pytest.mark.parametrize("agreed", [True, False], ids=["settings-agreed", "settings-not-agreed"])
@pytest.mark.parametrize("size", [0, 16_000], ids=["empty", "full"])
async def test_21_headers_without_end(scene: Scene, size: int, agreed: bool) -> None:
    """To a client that does not agree to the settings the library's own limit applies, which is far off."""
    async with await scene.connect(preface=agreed) as connection:
        if not agreed:
            connection.write(PREFACE + SettingsFrame(0).serialize())
        more = connection.block([("x", "y" * size)]) if size else b""
        connection.frame(HeadersFrame(1, connection.block(headers())))
        part = ContinuationFrame(1, more).serialize() * 20
        if await flood(connection, [part] * 50 + [ContinuationFrame(1, b"", flags=["END_HEADERS"]).serialize()]):
            connection.data(1, CALL, end=True)
            statuses = (RESOURCE_EXHAUSTED,) if agreed else (RESOURCE_EXHAUSTED, OK)
            assert private(await connection.answer(1)).status in statuses


async def pinged(connection: RawConnection, times: int) -> None:
    for _ in range(times):
        await connection.ping()


async def test_22_pings(scene: Scene) -> None:
    async with await scene.connect() as connection:
        with pytest.raises(Closed) as closed:
            await pinged(connection, 10)
        assert closed.value.code == ENHANCE_YOUR_CALM
    async with await scene.connect() as connection:
        await flood(connection, [PingFrame(0, opaque_data=bytes(8)).serialize() * 100] * 200)
        await connection.closed()


async def test_23_settings(scene: Scene) -> None:
    async with await scene.connect() as connection:
        await flood(connection, [SettingsFrame(0, settings={4: 70_000}).serialize() * 500] * 40)


async def test_24_a_window_that_stays_shut(scene: Scene) -> None:
    """Nothing goes out, so the stream is not read on, and its session is as it was."""
    name, token = uuid.uuid4().hex, os.urandom(16)
    opened = pb.StreamRequest(open=pb.Open(session_id=name, create_token=token, model="checker"))
    messages = [opened, *(pb.StreamRequest(timestep=good("checker", step)) for step in range(1, 51))]
    async with await scene.connect({SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as connection:
        connection.headers(1, headers(path=STREAM))
        connection.data(1, b"".join(grpc_message(message.SerializeToString()) for message in messages))
        await connection.ping()

        async def created() -> bool:
            return await known(scene, name)

        async def time_enough(taken: int = len(scene.taken)) -> bool:
            return len(scene.taken) > taken + 2 * len(messages)

        await until(created)
        await until(time_enough)
        assert (await seen(scene.channel, name)).step <= 1
        epoch = (await seen(scene.channel, name)).epoch
    # the session outlives such a stream
    newer = WireStream(scene.channel)
    found = await newer.open(name, create_token=token, found_epoch=epoch)
    await newer.step(found.step + 1, number(7))
    await newer.close()


async def test_27_more_streams_than_there_may_be(scene: Scene) -> None:
    async with await scene.connect() as connection:
        block = connection.block(headers(path=STREAM))
        streams = range(1, 2 * 4000, 2)
        parts = [HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize() for stream in streams]
        if await flood(connection, parts):
            answer = await connection.answer(streams[-1])
            assert answer.reset is not None or answer.status == RESOURCE_EXHAUSTED
            assert sum(bool(a.headers) or a.reset is not None for a in connection.answers.values()) >= 4000 - 2 * 2048


async def test_30_and_51_a_thousand_connections_that_say_little_are_closed(scene: Scene) -> None:
    connections = [await scene.connect(preface=False) for _ in range(1000)]
    for at, connection in enumerate(connections):
        connection.write(PREFACE[: at % (len(PREFACE) + 1)])
    closed = await asyncio.gather(*(connection.closed() for connection in connections))
    for connection in connections:
        connection.close()
    assert {end.text for end in closed} == {b"Did not receive HTTP/2 settings before handshake timeout"}


async def known(scene: Scene, name: str) -> bool:
    try:
        await seen(scene.channel, name)
    except grpc.aio.AioRpcError:
        return False
    return True
