"""Fixtures for tests with a real engine process around a runner that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_children import make_client

from engine import EngineClient


@pytest.fixture
def child_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a child process find `fake_engine_process`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))


@pytest.fixture
async def client(child_on_path: None) -> AsyncIterator[EngineClient]:
    client = make_client()
    await client.start()
    yield client
    await client.close()
