"""The dashboard and the alert rules ask for what the server shows, and for nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fake_engine import FakeEngine
from live_app import MODEL, live_app
from prometheus_client.parser import text_string_to_metric_families

from engine import EngineStats, Failure

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "octavo.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]

METRIC = re.compile(r"\b(?:octavo:|process_)\w+")
SELECTOR = re.compile(r"(\b(?:octavo:|process_)\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)")
# What the server that scrapes adds itself.
ADDED_LABELS = {"instance", "job"}


def dashboard_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


class GuessingEngine(FakeEngine):
    async def stats(self) -> EngineStats:
        return EngineStats(num_blocks_total=1, right_by_position=(2, 1))


async def samples() -> dict[str, set[str]]:
    """Names of samples on the page of a server that has seen everything, with their labels."""
    engine = GuessingEngine(manual=True)
    async with live_app(engine) as client:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
        for number in range(2):
            answer = asyncio.create_task(client.post("/v1/completions", json=body))
            await engine.until(lambda number=number: len(engine.requests) > number)
            if number:
                engine.fail(engine.requests[number], Failure("step_failed", "it failed"))
            engine.step()
            assert (await answer).status_code == (500 if number else 200)
        engine.is_ready = False
        assert (await client.post("/v1/completions", json=body)).status_code == 503
        page: httpx.Response = await client.get("/metrics")
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    "queries",
    [list(dashboard_queries()), [rule["expr"] for rule in RULES]],
    ids=["dashboard", "alerts"],
)
async def test_all_metrics_and_labels_exist(queries: list[str]) -> None:
    known = await samples()
    assert len(queries) > 8
    for query in queries:
        names = METRIC.findall(query)
        assert names, query
        assert set(names) <= known.keys(), query
        for name, selector in SELECTOR.findall(query):
            assert set(LABEL.findall(selector)) <= known[name] | ADDED_LABELS, query
        for grouping in re.findall(r"\b(?:by|on|ignoring) \(([^)]+)\)", query):
            labels = {label.strip() for label in grouping.split(",")}
            assert labels <= set.union(*(known[name] for name in names)) | ADDED_LABELS, query
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")


@pytest.mark.parametrize(
    "queries",
    [list(dashboard_queries()), [rule["expr"] for rule in RULES]],
    ids=["dashboard", "alerts"],
)
def test_queries_are_promql(queries: list[str]) -> None:
    """By a parser that knows functions and types. `label_values` and variables are Grafana's."""
    promql = pytest.importorskip("promql_parser")
    for query in queries:
        query = re.sub(r"\blabel_values\((.*), \w+\)$", r"\1", query)
        query = query.replace("$__rate_interval", "5m")
        promql.parse(query)
        with pytest.raises(ValueError, match=r"matrix"):
            promql.parse(f"rate({query})")  # a rate is of a range, which none of these is


def test_the_rules_are_as_prometheus_wants_them() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) >= 8
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert "octavo:" not in target["expr"] or "$model_name" in target["expr"]
