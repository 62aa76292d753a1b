"""What a measurement comes to, a timestep each."""

from collections.abc import Mapping

from benchmarks.client.task import Told


def costs(told: Told) -> dict[str, float]:
    """What the client told, a timestep each."""
    steps = max(1, told.steps)
    values = {
        "steps_per_second": told.steps / told.seconds,
        "server_us": 1e6 * told.cpu["server"] / steps,
        "core_us": 1e6 * told.cpu["core"] / steps,
        "redis_us": 1e6 * told.cpu["redis"] / steps,
        "client_us": 1e6 * told.client_cpu / steps,
        "server_busy": told.cpu["server"] / told.seconds,
        "client_busy": told.client_cpu / told.seconds,
        "p50_ms": told.p50_ms,
        "p99_ms": told.p99_ms,
        "max_ms": told.max_ms,
        "refused": told.refused / told.seconds,
        "request_bytes": told.request_bytes,
        "reply_bytes": told.reply_bytes,
        "rss_kb": told.resident["server"][1] / 1024,
        "rss_grown_kb": (told.resident["server"][1] - told.resident["server"][0]) / 1024,
    }
    if told.sessions:
        values["sessions_per_second"] = told.sessions / told.seconds
        values["server_us_per_session"] = 1e6 * told.cpu["server"] / told.sessions
        values["redis_us_per_session"] = 1e6 * told.cpu["redis"] / told.sessions
    return values


def inner(before: Mapping[str, float], after: Mapping[str, float], steps: int, moved: int) -> dict[str, float]:
    """What the replica told of itself, over the whole run of a client: batches, calls and bytes of the store."""

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    batches, commits = grown("cellwire_batch_size_count"), grown("cellwire_commit_size_count")
    if not batches or not steps:
        return {}
    return {
        "batch": grown("cellwire_batch_size_sum") / batches,
        "commit": grown("cellwire_commit_size_sum") / max(1.0, commits),
        "store_calls": commits / steps,
        "store_bytes": moved / steps,
    }
