"""The engine's counts for those who watch: asked for seldom, never waited for long.

The engine process begins again at zero when it has died; here its totals go on.
"""

from __future__ import annotations

import asyncio

from engine import Engine, EngineDeadError, EngineHistory, EngineStats

# A step may take long on a slow machine; a scraper has other servers to ask.
ANSWER_SECONDS = 1.0
# However many ask, the engine is asked this seldom.
FRESH_SECONDS = 0.1


class EngineCounts:
    """Reads the stats of `engine`; several readers share one answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._now = EngineStats()  # of the engine process of the moment
        self._before = EngineStats()  # totals of those that died
        self._num_deaths = 0
        self._asking: asyncio.Task[None] | None = None
        self._read_at = float("-inf")

    @property
    def history(self) -> EngineHistory:
        return self._engine.history

    async def read(self) -> EngineStats:
        """The counts of now, or the last known if the engine does not answer in time. Totals go on
        over restarts; an engine that is away runs nothing."""
        if asyncio.get_running_loop().time() - self._read_at >= FRESH_SECONDS:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(), name="engine counts")
            await asyncio.wait([self._asking], timeout=ANSWER_SECONDS)
        self._note_deaths()
        return self._all()

    async def _ask(self) -> None:
        try:
            stats = await self._engine.stats()
        except EngineDeadError:
            return
        self._note_deaths()
        self._now = stats
        self._read_at = asyncio.get_running_loop().time()

    def _note_deaths(self) -> None:
        num_deaths = self._engine.history.num_deaths
        if num_deaths != self._num_deaths:
            self._num_deaths = num_deaths
            self._before = self._all()
            self._now = EngineStats(num_blocks_total=self._now.num_blocks_total)

    def _all(self) -> EngineStats:
        return self._now.after(self._before)
