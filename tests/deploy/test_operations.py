"""The operator's page names nothing that is not there."""

import re
from pathlib import Path

import yaml

from service.settings import Settings


def test_settings_and_metrics_of_the_page_exist(root: Path, series: dict[str, set[str]]) -> None:
    page = (root / "docs" / "operations.md").read_text()
    settings = set(re.findall(r"\bCELLWIRE_(\w+)", page))
    assert {name.lower() for name in settings} <= set(Settings.model_fields)
    named = set(re.findall(r"`(cellwire_\w+)", page))
    assert {name for name in named if not any(one.startswith(name) for one in series)} == set()


def test_the_init_container_of_the_page_fits_the_deployment(root: Path) -> None:
    page = (root / "docs" / "operations.md").read_text()
    snippet = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    manifest = yaml.safe_load((root / "deploy" / "kubernetes" / "deployment.yaml").read_text())
    pod = manifest["spec"]["template"]["spec"]
    (init,), (server,) = snippet["initContainers"], pod["containers"]
    assert init["securityContext"] == server["securityContext"]
    assert init["image"] == server["image"]
    assert all(mount in server["volumeMounts"] for mount in init["volumeMounts"])


def test_the_page_says_what_each_right_of_the_service_is_for(root: Path) -> None:
    page = (root / "docs" / "operations.md").read_text().partition("is held to keys")[2]
    rows = [line.split(" | ")[0] for line in page.split("\n\n")[1].splitlines()[2:]]
    explained = [word.replace("\\|", "|") for row in rows for word in re.findall(r"`([^`]+)`", row)]
    users = (root / "deploy" / "redis" / "users.acl").read_text()
    (line,) = re.findall("^user cellwire (.*)$", users, re.MULTILINE)
    assert sorted(explained) == sorted(re.findall(r"\+(\S+)", line))
