"""The buckets of a histogram are Prometheus's; quantiles are estimated inside of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.observe.histogram import Histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.cumulative() == [(1.0, 2), (2.0, 4), (math.inf, 5)]
    assert histogram.sum == 7.5
    assert histogram.num_values == 5


def test_many_at_once_are_as_many_one_by_one() -> None:
    one_by_one, at_once = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for _ in range(3):
        one_by_one.observe(1.5)
    at_once.observe_all(4.5, 3)
    assert one_by_one.counts == at_once.counts
    assert one_by_one.sum == at_once.sum


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, None), (0.25, 0.5), (0.5, 1.0), (0.75, 3.0), (1.0, 5.0)]
)
def test_quantiles_lie_between_the_bounds(share: float, expected: float | None) -> None:
    histogram = Histogram((1.0, 5.0))
    for value in (0.2, 0.7, 2.0, 4.0):
        histogram.observe(value)
    assert histogram.quantile(share) == expected


def test_without_values_there_is_no_quantile() -> None:
    assert Histogram((1.0,)).quantile(0.5) is None


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value(values: list[float], share: float) -> None:
    bounds = (1.0, 2.0, 5.0, 10.0, 50.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    exact = sorted(values)[math.ceil(round(share * len(values), 9)) - 1]
    estimate = histogram.quantile(share)
    assert estimate is not None
    lower = max((bound for bound in bounds if bound < exact), default=0.0)
    upper = min((bound for bound in bounds if bound >= exact), default=bounds[-1])
    assert lower <= estimate <= upper or estimate == bounds[-1]
