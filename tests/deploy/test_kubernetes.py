"""The manifests: they hang together, and with the server's settings."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "deploy" / "kubernetes"


@pytest.fixture(scope="module")
def manifests(folder: Path) -> dict[str, Manifest]:
    """By kind; there is one of each."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    kinds = {manifest["kind"]: manifest for manifest in found}
    assert len(kinds) == len(found)
    return kinds


@pytest.fixture
def pod(manifests: dict[str, Manifest]) -> Manifest:
    return dict(manifests["Deployment"]["spec"]["template"]["spec"])


@pytest.fixture
def container(pod: Manifest) -> Manifest:
    assert len(pod["containers"]) == 1
    return dict(pod["containers"][0])


@pytest.fixture
def settings(manifests: dict[str, Manifest], settings_of: Callable[[Mapping[str, str]], Settings]) -> Settings:
    return settings_of(manifests["ConfigMap"]["data"])


def test_kustomize_applies_every_manifest(folder: Path, manifests: dict[str, Manifest]) -> None:
    others = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(manifests["Kustomization"]["resources"]) == others
    assert set(manifests) == {"Kustomization", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}


def test_selectors_find_the_pods(manifests: dict[str, Manifest]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()


def test_probes_ask_the_port_that_the_server_opens(container: Manifest, settings: Settings) -> None:
    probes = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["service"] for name, probe in probes.items()} == {
        "startup": "liveness",
        "liveness": "liveness",
        "readiness": "",
    }
    assert {probe["port"] for probe in probes.values()} == {settings.port}
    assert settings.host == settings.admin_host == "0.0.0.0"


def test_the_service_is_headless_and_names_the_ports(
    manifests: dict[str, Manifest], container: Manifest, settings: Settings
) -> None:
    service = manifests["Service"]["spec"]
    assert service["clusterIP"] == "None"
    opened = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert opened == {"grpc": settings.port, "metrics": settings.admin_port}
    assert {port["targetPort"] for port in service["ports"]} == set(opened)
    notes = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(settings.admin_port)


def test_a_pod_has_time_to_drain(pod: Manifest, container: Manifest, settings: Settings) -> None:
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + settings.drain_seconds + 5


def test_a_rollout_never_has_fewer_replicas_than_asked(manifests: dict[str, Manifest]) -> None:
    spec = manifests["Deployment"]["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_a_pod_may_do_little(pod: Manifest, container: Manifest, dockerfile: list[tuple[str, str]]) -> None:
    user = dict(dockerfile)["USER"].split(":")
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert [str(context["runAsUser"]), str(context["runAsGroup"])] == user
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    # Service links would set CELLWIRE_PORT=tcp://... from a Service called cellwire.
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


def test_what_the_replica_writes_to_is_mounted(pod: Manifest, container: Manifest, settings: Settings) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    read_only = {mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")}
    assert set(mounts) - read_only == {"/tmp", str(settings.models_cache)}
    assert volumes[mounts["/tmp"]]["emptyDir"]["medium"] == "Memory"
    assert all("sizeLimit" in volumes[mounts[path]]["emptyDir"] for path in set(mounts) - read_only)


def test_the_stores_secrets_are_files_and_may_be_missing(folder: Path, pod: Manifest, container: Manifest) -> None:
    (mount,) = (mount for mount in container["volumeMounts"] if mount.get("readOnly"))
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    assert volume["secret"]["optional"] is True
    # what the comment of the settings says to switch on
    text = (folder / "configmap.yaml").read_text()
    named = dict(re.findall(r"#   CELLWIRE_(\w+): (.+)", text))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    assert {path.rpartition("/")[0] for path in named.values() if "/" in path} == {mount["mountPath"]}


def test_replicas_spread_over_machines_and_zones(pod: Manifest) -> None:
    keys = [constraint["topologyKey"] for constraint in pod["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
