"""Prometheus's text format: what its own library writes for the same metrics, and reads back."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from server.observe.histogram import Histogram
from server.observe.text_format import MetricFamilies

HARD_NAMES = ["plain", 'quo"ted', "back\\slash", "two\nlines", "\\n", "ünï😀", "a}b{,c=", " "]
BOUNDS = (0.001, 0.5, 1.0, 1000000.0)


class Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def theirs(model: str, histogram: Histogram, rows: dict[tuple[str, ...], float]) -> str:
    """The page as prometheus_client writes it."""
    names = ["model_name", "engine"]
    gauge = GaugeMetricFamily("octavo:some", "A gauge.", labels=names)
    gauge.add_metric([model, "0"], 0.25)
    counter = CounterMetricFamily("octavo:many", "A counter.", labels=[*names, "reason", "a"])
    for row, value in rows.items():
        counter.add_metric([model, "0", *row], value)
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), float(count))
        for bound, count in histogram.cumulative()
    ]
    family = HistogramMetricFamily("octavo:times_seconds", "A histogram.", labels=names)
    family.add_metric([model, "0"], buckets, histogram.sum)
    registry = CollectorRegistry()
    registry.register(Given([gauge, counter, family]))
    return generate_latest(registry).decode()


def ours(families: MetricFamilies, histogram: Histogram, rows: dict[tuple[str, ...], float]) -> str:
    return (
        families.gauge("some", "A gauge.", {(): 0.25})
        + families.counter("many", "A counter.", rows, "reason", "a")
        + families.histogram("times_seconds", "A histogram.", histogram)
    )


def read(page: str) -> list[tuple[str, ...]]:
    """All lines, numbers as numbers."""
    lines = []
    for line in page.splitlines():
        start, _, value = line.rpartition(" ")
        lines.append((line,) if line.startswith("#") else (start, str(float(value))))
    return lines


@pytest.mark.parametrize("name", HARD_NAMES)
def test_a_page_is_what_the_library_writes(name: str) -> None:
    histogram = Histogram(BOUNDS)
    families = MetricFamilies("octavo", {"model_name": name, "engine": "0"})
    rows: dict[tuple[str, ...], float] = {}
    for number in range(3):  # later pages reuse what the first one put together
        page = ours(families, histogram, rows)
        assert read(page) == read(theirs(name, histogram, rows))
        for value in (0.0005, 0.5, 7.0, 1e17):
            histogram.observe(value)
        rows |= {("stop", name): 1.5 + number, (name, str(number)): 1e16}
    samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
    assert {sample.labels["model_name"] for sample in samples} == {name}
    assert len(samples) == 1 + 3 + len(BOUNDS) + 3
