"""Prometheus's text format, for a page on which nothing but the values changes.

prometheus_client puts every name and label together anew for each scrape, which was most of what
observing cost beside a small model (benchmarks/RESULTS.md). Here that is done once. The format:
https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Literal

from server.observe.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class MetricFamilies:
    """Writes families whose names begin with `prefix`, and whose samples all have `labels`.

    What stands before the value of a sample is kept for good: labels need few different values.
    """

    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._labels = dict(labels)
        self._heads: dict[str, str] = {}
        self._samples: dict[tuple[str, ...], str] = {}
        self._buckets: dict[str, list[str]] = {}

    def gauge(
        self, name: str, documentation: str, rows: Mapping[tuple[str, ...], float], *labels: str
    ) -> str:
        """A value for each of `rows`, by the values of `labels`."""
        return self._family(name, "gauge", documentation, rows, labels)

    def counter(
        self, name: str, documentation: str, rows: Mapping[tuple[str, ...], float], *labels: str
    ) -> str:
        """As `gauge`; `name` is without its "_total"."""
        return self._family(f"{name}_total", "counter", documentation, rows, labels)

    def histogram(self, name: str, documentation: str, histogram: Histogram) -> str:
        """Its bounds are those of the first one that had this name."""
        buckets = self._buckets.get(name)
        if buckets is None:
            bounds = (*map(str, histogram.bounds), "+Inf")
            buckets = [self._sample(f"{name}_bucket", ("le",), (bound,)) for bound in bounds]
            self._buckets[name] = buckets
        counts = list(accumulate(histogram.counts))
        lines = [f"{start}{count}\n" for start, count in zip(buckets, counts, strict=True)]
        lines.append(f"{self._sample(f'{name}_count', (), ())}{counts[-1]}\n")
        lines.append(f"{self._sample(f'{name}_sum', (), ())}{float(histogram.sum)}\n")
        return self._head(name, "histogram", documentation) + "".join(lines)

    def _family(
        self,
        name: str,
        kind: Literal["gauge", "counter"],
        documentation: str,
        rows: Mapping[tuple[str, ...], float],
        labels: tuple[str, ...],
    ) -> str:
        lines = [f"{self._sample(name, labels, row)}{float(rows[row])}\n" for row in rows]
        return self._head(name, kind, documentation) + "".join(lines)

    def _head(self, name: str, kind: str, documentation: str) -> str:
        head = self._heads.get(name)
        if head is None:
            name_in_full = f"{self._prefix}:{name}"
            head = f"# HELP {name_in_full} {documentation}\n# TYPE {name_in_full} {kind}\n"
            self._heads[name] = head
        return head

    def _sample(self, name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> str:
        """All of a sample's line but the value."""
        sample = self._samples.get((name, *values))
        if sample is None:
            pairs = {**self._labels, **dict(zip(labels, values, strict=True))}
            escaped = ((key, value.translate(_ESCAPES)) for key, value in sorted(pairs.items()))
            text = ",".join(f'{key}="{value}"' for key, value in escaped)
            sample = f"{self._prefix}:{name}{{{text}}} "
            self._samples[name, *values] = sample
        return sample
