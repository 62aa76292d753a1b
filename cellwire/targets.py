"""The replicas that a client may use: one channel each, made when it is first needed."""

from collections.abc import Sequence

import grpc.aio

from cellwire.v1 import cell_service_pb2_grpc, model_service_pb2_grpc, session_service_pb2_grpc

MAX_MESSAGE_BYTES = 16 * 2**20

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the option above is not enough in grpc 1.85
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),  # a retry that does not know step numbers could only harm
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.lb_policy_name", "round_robin"),  # of a name with many addresses: the ready ones
)


_LOOPBACK = ("localhost:", "127.", "[::1]", "ipv4:127.", "unix:")


class Target:
    """One replica (or a name that stands for several): its address, its channel and the services behind it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        # an http_proxy of the environment cannot reach this machine's loopback
        options = (*_OPTIONS, ("grpc.enable_http_proxy", int(not address.startswith(_LOOPBACK))))
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, options=options)
        self.cells = cell_service_pb2_grpc.CellServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)


class Targets:
    """All replicas of a client; closes their channels on leaving."""

    def __init__(self, addresses: str | Sequence[str], credentials: grpc.ChannelCredentials | None = None) -> None:
        self.addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not self.addresses:
            raise ValueError("a client needs at least one target, such as localhost:50051")
        self._credentials = credentials
        self._known: dict[str, Target] = {}

    def __len__(self) -> int:
        return len(self.addresses)

    def __getitem__(self, turn: int) -> Target:
        """The replica whose turn it is; turns go round."""
        address = self.addresses[turn % len(self.addresses)]
        if address not in self._known:
            self._known[address] = Target(address, self._credentials)
        return self._known[address]

    async def close(self) -> None:
        """Close every channel; RPCs that still run are cancelled."""
        while self._known:
            _, target = self._known.popitem()
            await target.channel.close()
