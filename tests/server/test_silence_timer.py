"""The timer behind the comments that keep a silent stream alive."""

from __future__ import annotations

import asyncio

from server.completion.sse import SilenceTimer


async def test_it_goes_off_again_and_again_until_it_is_closed() -> None:
    rings = asyncio.Queue[float]()
    loop = asyncio.get_running_loop()
    began = loop.time()
    timer = SilenceTimer(0.02, lambda: rings.put_nowait(loop.time()))
    first, second = await rings.get(), await rings.get()
    timer.close()
    assert first - began >= 0.02
    assert second - first >= 0.02
    await asyncio.sleep(0.05)
    assert rings.empty()


async def test_an_end_of_the_silence_puts_it_off() -> None:
    rings = asyncio.Queue[float]()
    loop = asyncio.get_running_loop()
    timer = SilenceTimer(0.1, lambda: rings.put_nowait(loop.time()))
    await asyncio.sleep(0.06)
    timer.end()
    ended = loop.time()
    rang = await rings.get()
    timer.close()
    # Counted from the end and not from the beginning, nor from when the first timer went off.
    assert rang - ended >= 0.099
