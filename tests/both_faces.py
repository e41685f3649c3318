"""One text of a test for both clients: what one of them returns at once, the other is awaited for.

The sync client blocks the test's event loop meanwhile; the fault server has a thread of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from octavo_client import AsyncClient, Client

MakeClient = type[Client] | type[AsyncClient]


async def settled(value: Any) -> Any:
    """A method's result."""
    return await value if inspect.isawaitable(value) else value


async def each(iterable: Any) -> AsyncIterator[Any]:
    """The items of an iterable of either kind."""
    if hasattr(iterable, "__aiter__"):
        async for item in iterable:
            yield item
    else:
        for item in iterable:
            yield item


async def all_of(iterable: Any) -> list[Any]:
    return [item async for item in each(iterable)]


@asynccontextmanager
async def inside(manager: Any) -> AsyncIterator[Any]:
    """A context manager of either kind."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value
