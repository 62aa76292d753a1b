"""Settings of the server, read from CELLWIRE_* (and nothing else reads the environment). Times are seconds."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import failpoints

STORE_SCHEMES = (
    "unix://",
    *(f"{tls}{form}://" for tls in ("redis", "rediss") for form in ("", "+sentinel", "+cluster")),
)
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
PACKAGED_MODELS = Path(__file__).parent.parent / "models" / "trained"


def default_cache() -> Path:
    """Where pulled weights go unless CELLWIRE_MODELS_CACHE says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellwire" / "models"


def _paths(value: object) -> object:
    if isinstance(value, str):
        return tuple(Path(part) for part in value.split(os.pathsep) if part)
    return value


class Settings(BaseSettings):
    """One replica's settings."""

    model_config = SettingsConfigDict(
        env_prefix="CELLWIRE_",
        frozen=True,
        extra="ignore",
        secrets_dir=os.environ.get("CELLWIRE_SECRETS_DIR"),
    )

    host: str = Field("127.0.0.1", description="Address that the gRPC port binds to.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0: any free one.")
    port_file: Path | None = Field(None, description="Written with the bound gRPC port once the replica serves.")
    insecure_bind: bool = Field(False, description="Allow plaintext beyond loopback.")
    workers: int = Field(
        1, ge=0, le=256, description="Processes that serve the port together, each with caps of its own; 0: one a core."
    )
    admin_host: str = Field("127.0.0.1", description="Address of the admin port (metrics, health).")
    admin_port: int = Field(9464, ge=0, le=65535, description="Admin HTTP port; 0: any free one.")
    tenant: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Whose sessions these are.")

    store_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// URL of the store; redis+sentinel://h1:p,h2:p/service; "
        "redis+cluster://h1:p,h2:p; rediss+... with TLS.",
    )
    store_username: str = Field("", description="Goes before the URL's, as the password does.")
    store_password: SecretStr = Field(SecretStr(""), description="Better in a file than in an environment.")
    store_password_file: FilePath | None = Field(None, description="The password; read again at each connect.")
    store_ca: FilePath | None = Field(None, description="Certificates of authorities that sign the store's.")
    store_cert: FilePath | None = Field(None, description="Certificate shown to the store.")
    store_key: FilePath | None = Field(None, description="Its key.")
    store_timeout: float = Field(2.0, gt=0, description="One answer of the store.")
    commit_deadline: float = Field(10.0, gt=0, description="A commit in doubt is sent again for so long.")
    store_grace: float = Field(
        30.0, ge=0, description="The store may be gone for so long before the replica says NOT_SERVING."
    )
    ephemeral_store: bool = Field(False, description="Serve although the store does not persist or may evict sessions.")

    models: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        (), description="Model repositories, separated by ':'. Empty: the packaged models and the cache."
    )
    models_cache: Path = Field(default_factory=default_cache, description="Where pulled weights are.")
    load: str = Field(
        "", description="Names of the models to load at start, separated by ','. Empty: all that there are."
    )

    provider: Literal["", "cpu", "cuda"] = Field(
        "", description="What runs the models, whatever their manifests say. Empty: as they say."
    )
    provider_fallback: bool = Field(
        False, description="A model whose provider is not here runs on the CPU instead of being refused."
    )
    cuda_device: int = Field(0, ge=0, description="Number of the device for CUDA.")
    cuda_memory_bytes: int = Field(0, ge=0, description="Memory of the device for one model; 0: any amount.")

    idle_ttl: float = Field(
        3600.0, gt=0, le=30 * 86400, description="A session without a timestep is kept so long, or an eighth longer."
    )
    tombstone: float = Field(120.0, gt=0, le=86400, description="A closed session is remembered so long.")
    lease: float = Field(15.0, gt=0, le=3600, description="A session without heartbeat may be taken after so long.")
    heartbeat: float = Field(5.0, gt=0, description="Between two heartbeats of an idle stream.")
    ring: int = Field(16, ge=2, le=1024, description="R: replies kept a session.")
    window: int = Field(8, ge=1, description="W: unanswered messages a session.")
    max_timesteps: int = Field(64, ge=1, le=4096, description="T: timesteps a message.")
    max_message_bytes: int = Field(1 << 20, ge=1 << 10, description="Bytes a message.")
    unary_cache: int = Field(4096, ge=0, description="Sessions of unary calls kept in memory.")

    replicas_short: Literal["refuse", "degrade"] = Field(
        "refuse", description="Too few replicas hold a commit: it stays in doubt, or its reply says so."
    )
    replicas: int = Field(0, ge=0, le=64, description="Store replicas that must hold a commit before it is answered.")
    write_behind_steps: int = Field(8, ge=1, le=4096, description="Write-behind: written after so many timesteps,")
    write_behind_seconds: float = Field(0.05, gt=0, le=60, description="or after so long.")
    max_undurable: int = Field(64, ge=1, le=2048, description="U: timesteps that may be answered and not yet written.")

    step_target: float = Field(
        0.03, gt=0, description="From acceptance to commit; timesteps that would take longer are refused."
    )
    max_sessions: int = Field(0, ge=0, description="Sessions held by streams, each worker; 0: any number.")
    max_streams: int = Field(16384, ge=0, description="Streams of all connections, each worker; 0: any number.")
    max_steps_per_second: float = Field(0, ge=0, description="Timesteps of the tenant, each worker; 0: any number.")
    write_timeout: float = Field(10.0, gt=0, description="A client may leave a reply unread for so long.")
    max_commits: int = Field(256, ge=1, description="Commits a call to the store.")
    max_commit_bytes: int = Field(1 << 20, ge=1, description="Bytes a call to the store.")
    drain_seconds: float = Field(20.0, ge=0, description="Grace of a drain.")
    failpoints: str = Field("", description="For tests: where the replica fails. Refused beyond loopback.")
    log_format: Literal["console", "json"] = Field("console", description="Log lines for people or for machines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level logged.")

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.window >= self.ring:
            raise ValueError("window must be below ring")
        if 2 * self.heartbeat > self.lease:
            raise ValueError("heartbeat must be at most half of lease")
        if self.idle_ttl < self.tombstone:
            raise ValueError("idle_ttl must be at least tombstone")
        if self.idle_ttl <= self.lease:
            raise ValueError("idle_ttl must be above lease")
        if self.host not in LOOPBACK and not self.insecure_bind:
            raise ValueError("host is beyond loopback and the port is plaintext: set insecure_bind to allow it")
        if self.max_undurable < self.write_behind_steps:
            raise ValueError("max_undurable must be at least write_behind_steps")
        if self.failpoints and self.host not in LOOPBACK:
            raise ValueError("failpoints are for tests: host must be on loopback")
        failpoints.parse(self.failpoints)
        if not self.store_url.get_secret_value().startswith(STORE_SCHEMES):
            raise ValueError(f"store_url must start with one of {', '.join(STORE_SCHEMES)}")
        return self

    @property
    def num_workers(self) -> int:
        """Processes that serve: what was set, or the cores that this process may use."""
        if self.workers:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def repositories(self) -> tuple[Path, ...]:
        """Where models are looked for, in this order."""
        return self.models or (PACKAGED_MODELS, self.models_cache)


class BadSettings(Exception):
    """Settings that cannot be used; the text is one line that names each."""


class CannotStart(Exception):
    """The replica cannot serve with these settings; the text is one line."""


def load(**overrides: object) -> Settings:
    """The settings of the environment, with `overrides` above them.

    Raises:
        BadSettings: one or more are wrong.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_input=False, include_url=False):
            where = "_".join(str(part) for part in fault["loc"]).upper()
            text = fault["msg"].removeprefix("Value error, ")
            faults.append(f"CELLWIRE_{where}: {text}" if where else text)
        raise BadSettings("; ".join(faults)) from None
