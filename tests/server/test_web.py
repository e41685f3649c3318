"""How `octavo serve` ends when its engine does."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from byte_tokenizer import byte_tokenizer
from fake_engine import FakeEngine

from engine import EngineClient, EngineDeadError
from server.api_keys import ApiKeys
from server.app import create_app
from server.http_server import HttpServer
from server.listen import bind
from server.settings import Settings
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
    app = create_app(engine, byte_tokenizer(), Settings(), ["m"], api_keys=ApiKeys([]))
    server = HttpServer(app, lambda: None, "info", requests=app.state.services.queue)
    with bind("127.0.0.1", 0) as sock, pytest.raises(type(reason), match=str(reason)):
        await run_server(server, sock, cast(EngineClient, engine))
