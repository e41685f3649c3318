"""A histogram as Prometheus has them, cheap enough to be fed for every token.

For one thread: no locks. The standard library only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts of values by upper bound, inclusive; `sum` is that of all values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend; one more, infinity, is added."""
        self.bounds = tuple(map(float, bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], total: float) -> Histogram:
        """One that others have counted; `counts` has one more entry than `bounds`."""
        histogram = cls(bounds)
        histogram.counts = list(counts)
        histogram.sum = total
        return histogram

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, total: float, num_values: int) -> None:
        """So many equal values, which add up to `total`."""
        self.counts[bisect_left(self.bounds, total / num_values)] += num_values
        self.sum += total

    @property
    def num_values(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound, infinity the last, how many values are not above it."""
        return list(zip((*self.bounds, math.inf), accumulate(self.counts), strict=True))

    def quantile(self, share: float) -> float | None:
        """The value below which `share` (0 to 1) of them are, by linear interpolation inside of a
        bucket; at most the highest finite bound. None without values."""
        wanted = share * self.num_values
        if not wanted:
            return None
        below, lower = 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= wanted:
                return lower + (bound - lower) * (wanted - below) / count
            below, lower = below + count, bound
        return lower
