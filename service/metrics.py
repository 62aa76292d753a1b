"""All metrics of the service, as a table. Labels never hold a session or a tenant."""

import asyncio
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.distribution import Distribution

SUB_MILLISECOND = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
)  # fmt: skip
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

STEP_SECONDS = Distribution(
    "cellwire_step_seconds", "From a message with timesteps to its reply.", buckets=SUB_MILLISECOND
)
BATCH_SIZE = Distribution("cellwire_batch_size", "Sessions in one run of a cell.", ["model"], buckets=SIZES)
QUEUE_SECONDS = Distribution(
    "cellwire_queue_seconds",
    "How long the oldest timestep of a batch waited for it.",
    ["model"],
    buckets=SUB_MILLISECOND,
)
COMMIT_SECONDS = Distribution("cellwire_commit_seconds", "One call to the store with commits.", buckets=SUB_MILLISECOND)
COMMIT_SIZE = Distribution("cellwire_commit_size", "Sessions in one call to the store.", buckets=SIZES)
IN_FLIGHT = Gauge("cellwire_in_flight", "Messages accepted and not yet committed.", ["model"])
IN_FLIGHT_LIMIT = Gauge("cellwire_in_flight_limit", "So many are admitted.", ["model"])
LIVE_SESSIONS = Gauge("cellwire_live_sessions", "Sessions held by streams of this replica.")
OPENED = Counter("cellwire_sessions_opened_total", "Sessions opened.", ["outcome"])
TAKEOVERS = Counter("cellwire_takeovers_total", "Sessions taken from an owner that still had its lease.")
FENCED = Counter("cellwire_fenced_total", "Commits, closes and heartbeats refused: another owner.")
REPLAYS = Counter("cellwire_replays_total", "Messages answered from the ring.")
REGRESSIONS = Counter("cellwire_regressions_total", "Sessions that the store holds at an older step than it told.")
STORE_LOSSES = Counter("cellwire_store_losses_total", "Times that the store came back as another or an empty one.")
REFUSED = Counter("cellwire_refused_total", "Errors told to clients.", ["reason"])
NON_FINITE = Counter("cellwire_non_finite_total", "Timesteps whose outputs or state were not finite.", ["model"])
MODEL_LOADS = Counter("cellwire_model_loads_total", "Models loaded.", ["model", "outcome"])
PROVIDER_FALLBACKS = Counter(
    "cellwire_provider_fallbacks_total", "Models that run on the CPU because their provider is not here.", ["model"]
)
STORE_UP = Gauge("cellwire_store_up", "1 while the store answers and its policy is right.")
STORE_ERRORS = Counter("cellwire_store_errors_total", "Failed calls to the store.", ["kind"])
TASKS = Gauge("cellwire_tasks", "Tasks of the event loop.")
WORKERS = Gauge("cellwire_workers", "Processes that serve and answered when this was asked.")
WORKER_RESTARTS = Counter("cellwire_worker_restarts_total", "Workers started again after they had died.")
DRAINING = Gauge("cellwire_draining", "1 while the replica drains.")

_GRPC = ("grpc_type", "grpc_service", "grpc_method")
RPC_STARTED = Counter("grpc_server_started_total", "RPCs started.", _GRPC)
RPC_HANDLED = Counter("grpc_server_handled_total", "RPCs completed.", (*_GRPC, "grpc_code"))
RPC_SECONDS = Histogram("grpc_server_handling_seconds", "Duration of RPCs.", _GRPC)


class MessageTallies(Collector):
    """Counts of messages, kept as plain integers because they are touched twice a timestep."""

    def __init__(self) -> None:
        self.received: Tally[tuple[str, str, str]] = Tally()
        self.sent: Tally[tuple[str, str, str]] = Tally()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The two counters, as Prometheus asks for them."""
        for name, text, tally in (
            ("grpc_server_msg_received", "Messages received.", self.received),
            ("grpc_server_msg_sent", "Messages sent.", self.sent),
        ):
            family = CounterMetricFamily(name, text, labels=_GRPC)
            for labels, count in tuple(tally.items()):
                family.add_metric(labels, count)
            yield family


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked from outside the event loop
        return 0


TASKS.set_function(_tasks)
WORKERS.set(1)
MESSAGES = MessageTallies()
REGISTRY.register(MESSAGES)
