"""When silence counts, on a clock that jumps to what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine.watchdog import Watchdog

TIMEOUT = 60.0


class JumpingLoop(asyncio.SelectorEventLoop):
    """Nobody waits: when there is nothing to do, its time is that of the next timer."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def _run_once(self) -> None:
        timers = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        if timers and not self._ready:
            self.ahead += max(min(timers) - self.time(), 0.0)
        super()._run_once()


class Watched:
    """Answers after `delay` seconds, None for never."""

    def __init__(self, delay: float | None) -> None:
        self._delay = delay
        self.num_asked = 0
        self.num_hangs = 0
        self.watchdog = Watchdog(TIMEOUT, self._ask, self._hang)

    def _ask(self) -> None:
        self.num_asked += 1
        if self._delay is not None:
            asyncio.get_running_loop().call_later(self._delay, self.watchdog.hear)

    def _hang(self) -> None:
        self.num_hangs += 1


async def silence_is_told_once() -> None:
    watched = Watched(None)
    watched.watchdog.start()
    await asyncio.sleep(0.9 * TIMEOUT)
    assert (watched.num_asked, watched.num_hangs) == (1, 0)
    await asyncio.sleep(0.3 * TIMEOUT)
    assert (watched.num_asked, watched.num_hangs) == (1, 1)
    await asyncio.sleep(4 * TIMEOUT)
    assert (watched.num_asked, watched.num_hangs) == (1, 1)


async def an_answer_is_enough() -> None:
    watched = Watched(TIMEOUT / 4)
    watched.watchdog.start()
    await asyncio.sleep(4 * TIMEOUT)
    watched.watchdog.stop()
    assert watched.num_asked > 1
    assert watched.num_hangs == 0


async def not_before_the_start_and_not_after_the_end() -> None:
    watched = Watched(None)
    await asyncio.sleep(2 * TIMEOUT)
    watched.watchdog.start()
    watched.watchdog.stop()
    await asyncio.sleep(2 * TIMEOUT)
    assert (watched.num_asked, watched.num_hangs) == (0, 0)


async def our_own_suspension_is_not_the_others_silence() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    watched = Watched(TIMEOUT / 4)
    watched.watchdog.start()
    await asyncio.sleep(TIMEOUT)
    loop.ahead += 3 * TIMEOUT  # as if this process had been stopped
    await asyncio.sleep(TIMEOUT)
    watched.watchdog.stop()
    assert watched.num_hangs == 0


@pytest.mark.parametrize(
    "story",
    [
        silence_is_told_once,
        an_answer_is_enough,
        not_before_the_start_and_not_after_the_end,
        our_own_suspension_is_not_the_others_silence,
    ],
)
def test_watchdog(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())
