"""The compose file: settings that exist, ports on loopback, a store that keeps what it is told."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError

from cellwire.cli.children import Children, stop
from service.settings import Settings
from tests.conftest import store_program
from tests.waiting import wait_until

REPLICAS = ("cellwire-1", "cellwire-2")


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((root / "docker-compose.yml").read_text()))


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_starts_with_these_settings(
    compose: dict[str, Any], name: str, settings_of: Callable[[Mapping[str, str]], Settings]
) -> None:
    replica = compose["services"][name]
    settings = settings_of(replica["environment"])
    assert settings.store_url.get_secret_value().startswith("redis://redis:")
    assert replica["ports"][0].endswith(f":{settings.port}")
    assert int(replica["stop_grace_period"].removesuffix("s")) >= settings.drain_seconds + 5


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_may_do_little(compose: dict[str, Any], name: str) -> None:
    replica = compose["services"][name]
    assert replica["read_only"] is True
    assert replica["cap_drop"] == ["ALL"]
    assert replica["security_opt"] == ["no-new-privileges:true"]


def test_one_service_builds_the_image_of_both(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name in services if "build" in services[name]] == ["cellwire-1"]
    assert services["cellwire-1"]["image"] == services["cellwire-2"]["image"]


def test_ports_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == len({port.rsplit(":", 1)[0] for port in ports}) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_persists_evicts_nothing_and_is_reached_by_replicas_only(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    words = shlex.split(redis["command"][-1].partition("redis-server")[2].replace("\\\n", ""))
    flags = dict(zip(words[::2], words[1::2], strict=True))
    assert flags["--appendonly"] == "yes"
    assert flags["--maxmemory-policy"] == "noeviction"
    assert "redis:/data" in redis["volumes"]
    assert compose["networks"]["store"]["internal"] is True
    inside = {name for name, service in compose["services"].items() if "store" in service["networks"]}
    assert inside == {"redis", *REPLICAS}


def test_redis_lets_the_replicas_in_and_nobody_else(
    compose: dict[str, Any], root: Path, tmp_path: Path, children: Children
) -> None:
    redis, replica = compose["services"]["redis"], compose["services"]["cellwire-1"]["environment"]
    # what Compose and the image would do: the variables of the file, the mounted file, the image's own programs
    assert redis["environment"]["STORE_PASSWORD"] == replica["CELLWIRE_STORE_PASSWORD"]
    (default,) = re.findall(r"\$\{CELLWIRE_STORE_PASSWORD:-(.*)}", replica["CELLWIRE_STORE_PASSWORD"])
    socket, mounted = tmp_path / "redis.sock", dict(mount.split(":")[:2][::-1] for mount in redis["volumes"])
    script = redis["command"][-1].replace("$$", "$").replace("/tmp/", f"{tmp_path}/")
    for inside, outside in mounted.items():
        script = script.replace(inside, str(root / outside))
    programs = {
        "docker-entrypoint.sh": f'exec "$@" --port 0 --unixsocket {socket} --dir {tmp_path}',
        "redis-cli": f'exec {shutil.which("redis-cli")} -s {socket} "$@"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    store_program("redis")
    path = f"{tmp_path}:{os.environ['PATH']}"
    server = children.start(
        [*redis["command"][:2], script], log=tmp_path / "log", env={"PATH": path, "STORE_PASSWORD": default}
    )
    try:
        wait_until(socket.exists, (tmp_path / "log").read_text())

        def healthy(password: str) -> bool:
            check = redis["healthcheck"]["test"][1].replace("$$", "$")
            environment = {"PATH": path, "STORE_PASSWORD": password}
            return subprocess.run(["sh", "-c", check], env=environment, capture_output=True).returncode == 0

        wait_until(lambda: healthy(default), "a server that answers")
        assert not healthy("another")
        with Redis(unix_socket_path=str(socket)) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        user = replica["CELLWIRE_STORE_USERNAME"]
        with Redis(unix_socket_path=str(socket), username=user, password=default) as service:
            assert service.set("cw:k", "v")
    finally:
        stop(server)


def test_prometheus_scrapes_each_replica_at_its_admin_port(root: Path, compose: dict[str, Any]) -> None:
    scrape = yaml.safe_load((root / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    port = Settings.model_fields["admin_port"].default
    assert targets == [f"{name}:{port}" for name in REPLICAS]
    assert "front" in compose["services"]["prometheus"]["networks"]


def test_mounted_files_exist_and_grafana_finds_its_dashboard(root: Path, compose: dict[str, Any]) -> None:
    mounts = [mount.split(":") for service in compose["services"].values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount[0].startswith("./")]
    assert len(files) == 4
    assert all((root / mount[0]).exists() and mount[2] == "ro" for mount in files)
    assert {mount[0] for mount in mounts if mount not in files} == set(compose["volumes"])
    provider = root / "deploy" / "grafana" / "provisioning" / "dashboards" / "cellwire.yml"
    folder = yaml.safe_load(provider.read_text())["providers"][0]["options"]["path"]
    assert f"{folder}/cellwire.json" in {mount[1] for mount in files}


def test_images_are_pinned_and_name_no_registry(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        name, _, tag = service["image"].partition(":")
        assert tag not in ("", "latest")
        assert "." not in name
