"""Work that ends when its client goes away: cancelled at once, never polled for.

Or when the connection gives its client up, and answers in place of the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope

from server.wire.errors import ApiError

T = TypeVar("T")

_SCOPE_KEY = "octavo.refusal"


class ClientDisconnected(Exception):
    """The client has gone; there is nobody left to answer."""


def note_refusal(scope: Scope, error: ApiError) -> None:
    """The connection answers this request with `error`; the application finds its client gone."""
    scope[_SCOPE_KEY] = error


def refusal_of(scope: Scope) -> ApiError | None:
    """What the connection answered in place of the application."""
    error: ApiError | None = scope.get(_SCOPE_KEY)
    return error


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; its body must have been read. Raises ClientDisconnected.

    `work` is cancelled and has ended, its `finally` blocks included, before this returns.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
