"""A minute of the soak; `make soak` runs all of it."""

from __future__ import annotations

import pytest
from chaos.soak.over_http import soak_over_http
from chaos.soak.seam import soak_at_the_seam

from engine import FinishReason


@pytest.mark.parametrize("max_launches", [1, 2])
async def test_random_requests_at_the_seam(max_launches: int) -> None:
    report = await soak_at_the_seam(10_000, 15.0, 7, max_launches)
    assert report.num_requests >= 100
    for ending in [
        *(FinishReason.LENGTH, FinishReason.STOP, FinishReason.ERROR),
        *("given up", "stopped"),
    ]:
        assert report.endings[ending] > 0
    assert report.num_preemptions > 0
    assert report.num_cached_tokens > 0
    # With two launches the next token is seldom known in time to guess what follows it.
    assert report.num_right_drafts > 0 or max_launches == 2


async def test_random_requests_over_http() -> None:
    report = await soak_over_http(10_000, 30.0, 7)
    assert report.num_requests >= 100
    for ending in [
        *("length", "stop", "step_failed", "refused", "vanished"),
        *("about tokens", "found in the cache"),
    ]:
        assert report.endings[ending] > 0
    assert report.num_preemptions > 0
    assert report.num_cached_tokens > 0
    assert report.num_right_drafts > 0
