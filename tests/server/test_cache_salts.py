"""What one key's holder has sent is no news to another: their cached prompts are apart."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from engine import EngineClient, EngineConfig
from server.settings import Settings

URL = "/v1/completions"
PROMPT = list(range(64))
BODY = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
A, A2, B = ({"Authorization": f"Bearer sk-{name}"} for name in ("a", "a2", "b"))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("sk-a name=a\nsk-a2 name=a\nsk-b\n")
    return file


async def num_cached(client: httpx.AsyncClient, headers: dict[str, str], **fields: object) -> int:
    response = await client.post(URL, json=BODY | fields, headers=headers)
    assert response.status_code == 200
    cached: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


@pytest.fixture
def counting_engine(monkeypatch: pytest.MonkeyPatch) -> EngineClient:
    """The real scheduler and prefix cache in their own process, without a model."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    return EngineClient(EngineConfig(""), module="fake_engine_process")


async def test_another_key_finds_nothing_in_the_cache(
    keys: Path, counting_engine: EngineClient
) -> None:
    await counting_engine.start()
    try:
        async with live_app(counting_engine, Settings(api_key_file=keys)) as client:
            assert await num_cached(client, A) == 0
            assert await num_cached(client, A) == 48
            assert await num_cached(client, A2) == 48  # the same name: the same tenant
            assert await num_cached(client, B) == 0
            # Nor by a salt of its own choosing.
            for salt in ("a", "key-a", ""):
                fields = {"cache_salt": salt} if salt else {}
                assert await num_cached(client, B, **fields) == (0 if salt else 48)
    finally:
        await counting_engine.close()


async def test_keys_may_share(keys: Path, counting_engine: EngineClient) -> None:
    await counting_engine.start()
    try:
        settings = Settings(api_key_file=keys, share_prefix_cache=True)
        async with live_app(counting_engine, settings) as client:
            assert await num_cached(client, A) == 0
            assert await num_cached(client, B) == 48
            assert await num_cached(client, B, cache_salt="own") == 0
    finally:
        await counting_engine.close()


async def test_the_salts_that_the_engine_sees(keys: Path) -> None:
    engine = FakeEngine()
    async with live_app(engine, Settings(api_key_file=keys)) as client:
        for headers in (A, A2, B):
            for fields in ({}, {"cache_salt": "own"}):
                await num_cached(client, headers, **fields)
    salts = [request.cache_salt for request in engine.requests]
    assert salts[:2] == salts[2:4] == ["a@", "a@own"]
    assert len(set(salts)) == 4
    assert "sk-b" not in salts[4]
