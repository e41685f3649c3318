"""server/disconnect.py: whatever ends the work or the watch, both have ended when it returns.

Under uvicorn a watch that is left behind ends with the answer, so no count of tasks shows it later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message

from server.disconnect import ClientDisconnected, unless_disconnected


class Client:
    """What it sends; it goes away when told."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.receive = self._messages.get

    def send(self, kind: str) -> None:
        self._messages.put_nowait({"type": kind})


@asynccontextmanager
async def nothing_left_running() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    try:
        yield
    finally:
        assert asyncio.all_tasks() <= before


async def forever(on_end: Callable[[], Awaitable[object]]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await on_end()


async def test_the_watch_ends_with_the_work() -> None:
    client = Client()
    async with nothing_left_running():
        assert await unless_disconnected(client.receive, asyncio.sleep(0, "done")) == "done"


async def test_the_watch_ends_with_work_that_fails() -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async with nothing_left_running():
        with pytest.raises(ValueError, match="broken"):
            await unless_disconnected(Client().receive, failing())


async def test_work_has_ended_when_its_client_is_gone() -> None:
    client = Client()
    ended = asyncio.Event()

    async def clean_up() -> None:
        await asyncio.sleep(0)
        ended.set()

    client.send("http.request")  # what is left of a body says nothing
    asyncio.get_running_loop().call_soon(client.send, "http.disconnect")
    async with nothing_left_running():
        with pytest.raises(ClientDisconnected):
            await unless_disconnected(client.receive, forever(clean_up))
        assert ended.is_set()


async def test_both_end_with_their_caller() -> None:
    ended = asyncio.Event()

    async def clean_up() -> None:
        ended.set()

    async with nothing_left_running():
        calling = asyncio.ensure_future(unless_disconnected(Client().receive, forever(clean_up)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # both have begun
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert ended.is_set()
