"""One minute of the soak; `make soak` runs all of it."""

from __future__ import annotations

from chaos.soak import soak

from engine import FinishReason


async def test_a_minute_of_random_requests() -> None:
    report = await soak(num_requests=10_000, seconds=60.0, seed=7)
    assert report.num_requests >= 100
    for ending in [FinishReason.LENGTH, FinishReason.STOP, FinishReason.ERROR, "given up"]:
        assert report.endings[ending] > 0
