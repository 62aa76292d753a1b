"""The dashboard asks for nothing that the service does not tell."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

# Every selector has braces (the replica variable), which is how a metric is told from a function here.
SELECTOR = re.compile(r"([a-zA-Z_:]\w*)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "deploy" / "grafana" / "cellwire.json").read_text()))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_query_names_metrics_and_labels_of_the_service(
    dashboard: dict[str, Any], series: dict[str, set[str]]
) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            query = target["expr"]
            found = SELECTOR.findall(query)
            assert found, query
            labels = {"instance", "le"}
            for name, matchers in found:
                assert name in series, query
                labels |= series[name]
                asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
                assert asked <= series[name] | {"instance"}, query
            for group in GROUPING.findall(query):
                assert {label.strip() for label in group.split(",")} <= labels, query
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


def test_rows_come_in_the_order_of_a_search_for_a_fault(dashboard: dict[str, Any]) -> None:
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Batching", "Sessions and takeovers", "Store", "Errors"]


def test_panels_explain_themselves_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
