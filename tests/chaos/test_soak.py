"""One minute of the soak; `make soak` runs all of it."""

from __future__ import annotations

import pytest
from chaos.soak import soak

from engine import FinishReason


@pytest.mark.parametrize("max_launches", [1, 2])
async def test_half_a_minute_of_random_requests(max_launches: int) -> None:
    report = await soak(10_000, seconds=30.0, seed=7, max_launches=max_launches)
    assert report.num_requests >= 100
    for ending in [
        *(FinishReason.LENGTH, FinishReason.STOP, FinishReason.ERROR),
        *("given up", "stopped"),
    ]:
        assert report.endings[ending] > 0
    assert report.num_preemptions > 0
    assert report.num_cached_tokens > 0
    assert report.num_right_drafts > 0
