"""What the tests of the deployment share: the files, and settings as a container would read them."""

import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from service import metrics
from service.settings import Settings, load

ROOT = Path(__file__).parent.parent.parent
SERIES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined: (ENV, its text)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


@pytest.fixture(scope="session")
def image_environment(dockerfile: list[tuple[str, str]]) -> dict[str, str]:
    """What the image sets, as every container of it starts with it."""
    pairs = [part for word, rest in dockerfile if word == "ENV" for part in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.fixture
def settings_of(
    monkeypatch: pytest.MonkeyPatch, image_environment: dict[str, str]
) -> Callable[[Mapping[str, str]], Settings]:
    """The settings that a replica in a container with this environment would have; fails on an unknown name."""

    def read(environment: Mapping[str, str]) -> Settings:
        for name in [name for name in os.environ if name.startswith("CELLWIRE_")]:
            monkeypatch.delenv(name)
        merged = {**image_environment, **environment}
        ours = {name: value for name, value in merged.items() if name.startswith("CELLWIRE_")}
        unknown = {name.removeprefix("CELLWIRE_").lower() for name in ours} - set(Settings.model_fields)
        assert not unknown, f"not in service/settings.py: {unknown}"
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        return load()

    return read


@pytest.fixture(scope="session")
def series() -> dict[str, set[str]]:
    """Each series that a replica exports, and its labels."""
    known = {"up": set[str]()}  # Prometheus's own
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for family in metric.describe():
                known |= {family.name + end: set(metric._labelnames) for end in SERIES[family.type]}
    for family in metrics.MESSAGES.collect():
        known[family.name + "_total"] = set(family._labelnames)
    return known
