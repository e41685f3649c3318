"""How `octavo serve` ends when its engine does."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from fake_engine import FakeEngine
from live_app import new_app

from engine import EngineClient, EngineDeadError
from server.http_server import HttpServer
from server.listen import bind
from server.web import run_server


class LostEngine(FakeEngine):
    """Is given up for a reason."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self._reason = reason

    async def wait_given_up(self) -> None:
        await asyncio.sleep(0.05)
        raise self._reason


@pytest.mark.parametrize("reason", [EngineDeadError("it died ten times"), ValueError("a bug")])
async def test_the_server_does_not_end_as_if_all_were_well(reason: Exception) -> None:
    engine = LostEngine(reason)
    app = new_app(engine)
    server = HttpServer(app, lambda: None, "info", requests=app.state.services.queue)
    with bind("127.0.0.1", 0) as sock, pytest.raises(type(reason), match=str(reason)):
        await run_server(server, sock, cast(EngineClient, engine))
