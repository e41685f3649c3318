"""How much the server has to do: looked at every few seconds while it has something to do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from engine import EngineStats
from server.observe.engine_counts import EngineCounts
from server.observe.metrics import RequestMetrics

logger = logging.getLogger("octavo.load")

INTERVAL_SECONDS = 10.0
MIN_WINDOW_SECONDS = 1.0  # rates over less say little


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second over the last `seconds`."""

    seconds: float
    prompt: float
    generation: float


def ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to have a part of."""
    return part / whole if whole else None


class LoadWatch:
    """Logs a line for each interval with requests in it, and knows the rates of tokens.

    Runs on a timer of the event loop that is set when a request comes and none is set.
    """

    def __init__(self, counts: EngineCounts, metrics: RequestMetrics) -> None:
        self._counts = counts
        self._metrics = metrics
        self._samples: deque[tuple[float, EngineStats]] = deque(maxlen=2)
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def begun(self) -> None:
        """A request has come."""
        if self._timer is None:
            self._samples.clear()
            self._look_later()
            self._looking = asyncio.create_task(self._look(), name="load")

    async def rates(self) -> Rates | None:
        """Up to now, since the last look that is not too close."""
        stats = await self._counts.read()
        now = asyncio.get_running_loop().time()
        before = [s for s in self._samples if now - s[0] >= MIN_WINDOW_SECONDS]
        return _rates(before[-1], (now, stats)) if before else None

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._due)

    def _due(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="load")
        self._timer = None
        if self._metrics.num_in_flight:
            self._look_later()

    async def _look(self) -> None:
        stats = await self._counts.read()
        self._samples.append((asyncio.get_running_loop().time(), stats))
        if len(self._samples) == 2:
            self._report(_rates(*self._samples), stats)

    def _report(self, rates: Rates, stats: EngineStats) -> None:
        usage = ratio(stats.num_blocks_used, stats.num_blocks_total) or 0.0
        hit_rate = ratio(stats.num_cached_tokens, stats.num_looked_up_tokens) or 0.0
        fields = {
            "running": stats.num_running,
            "waiting": stats.num_waiting,
            "kv_cache_usage": round(usage, 4),
            "prompt_tokens_per_second": round(rates.prompt, 1),
            "generation_tokens_per_second": round(rates.generation, 1),
            "prefix_cache_hit_rate": round(hit_rate, 4),
        }
        logger.info(
            "%d running, %d waiting, KV cache %.0f %%, %.0f prompt and %.0f new tokens/s, "
            "%.0f %% of prompts found in the cache",
            stats.num_running,
            stats.num_waiting,
            usage * 100,
            rates.prompt,
            rates.generation,
            hit_rate * 100,
            extra={"event": "load", "fields": fields},
        )


def _rates(before: tuple[float, EngineStats], after: tuple[float, EngineStats]) -> Rates:
    seconds = after[0] - before[0]
    return Rates(
        seconds,
        (after[1].num_prompt_tokens - before[1].num_prompt_tokens) / seconds,
        (after[1].num_generated_tokens - before[1].num_generated_tokens) / seconds,
    )
