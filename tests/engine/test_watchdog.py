"""When silence counts, on a clock of its own event loop."""

from __future__ import annotations

import asyncio
import time

from engine.watchdog import Watchdog

TIMEOUT = 0.5


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


async def test_silence_is_told_once() -> None:
    watched = Watched(None)
    watched.watchdog.start()
    await asyncio.sleep(4 * TIMEOUT)
    assert (watched.num_asked, watched.num_hangs) == (1, 1)


async def test_an_answer_is_enough() -> None:
    watched = Watched(TIMEOUT / 4)
    watched.watchdog.start()
    await asyncio.sleep(4 * TIMEOUT)
    watched.watchdog.stop()
    assert watched.num_asked > 1
    assert watched.num_hangs == 0


async def test_not_before_the_start_and_not_after_the_end() -> None:
    watched = Watched(None)
    await asyncio.sleep(2 * TIMEOUT)
    watched.watchdog.start()
    watched.watchdog.stop()
    await asyncio.sleep(2 * TIMEOUT)
    assert (watched.num_asked, watched.num_hangs) == (0, 0)


async def test_our_own_suspension_is_not_the_others_silence() -> None:
    watched = Watched(TIMEOUT / 4)
    watched.watchdog.start()
    await asyncio.sleep(TIMEOUT)
    time.sleep(3 * TIMEOUT)  # noqa: ASYNC251 - as if the process had been stopped
    await asyncio.sleep(TIMEOUT)
    watched.watchdog.stop()
    assert watched.num_hangs == 0
