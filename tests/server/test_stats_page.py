"""`GET /stats`: the server at a glance, behind the key."""

from __future__ import annotations

import asyncio

import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app
from pydantic import SecretStr

from engine import EngineStats
from server.observe import engine_counts, load
from server.settings import Settings

COMPLETION = {"model": MODEL, "prompt": "abc", "max_tokens": 4}


class BusyEngine(FakeEngine):
    """Has generated 100 tokens more each time it is asked."""

    num_tokens = 0

    async def stats(self) -> EngineStats:
        self.num_tokens += 100
        return EngineStats(
            num_running=2,
            num_blocks_used=5,
            num_blocks_total=10,
            num_generated_tokens=self.num_tokens,
            num_looked_up_tokens=8,
            num_cached_tokens=2,
        )


async def test_a_new_server_has_little_to_say() -> None:
    async with live_app(FakeEngine()) as client:
        stats = (await client.get("/stats")).json()
    assert stats["model"] == MODEL
    assert stats["engine"]["ready"] is True
    assert stats["time_to_first_token"] == {"mean": None, "p50": None, "p95": None, "p99": None}
    assert stats["engine"]["draft_acceptance_rate"] is None


async def test_what_happened_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_counts, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(load, "MIN_WINDOW_SECONDS", 0.0)
    async with live_app(BusyEngine()) as client:
        for _ in range(2):
            await client.post("/v1/completions", json=COMPLETION)
        await client.post("/v1/completions", json=COMPLETION | {"n": 0})
        await asyncio.sleep(0.05)
        stats = (await client.get("/stats")).json()
    assert stats["requests"]["finished"] == {"stop": 0, "length": 2, "abort": 0, "error": 0}
    assert stats["requests"]["in_flight"] == 1
    assert stats["engine"]["kv_cache_usage"] == 0.5
    assert stats["engine"]["prefix_cache_hit_rate"] == 0.25
    assert 0 < stats["inter_token_latency"]["p50"] <= stats["inter_token_latency"]["p99"]
    assert stats["request_latency"]["mean"] > 0
    rates = stats["tokens_per_second"]
    assert rates["generation"] * rates["seconds"] == pytest.approx(100)
    assert stats["uptime_seconds"] > 0


async def test_a_busy_server_logs_its_load(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load, "INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(engine_counts, "FRESH_SECONDS", 0.0)
    engine = BusyEngine(manual=True)
    with caplog.at_level("INFO", "octavo.load"):
        async with live_app(engine) as client:
            answer = asyncio.create_task(client.post("/v1/completions", json=COMPLETION))
            await engine.until(lambda: bool(engine.requests))
            async with asyncio.timeout(20):
                while len(caplog.records) < 2:  # noqa: ASYNC110 - the log has no event
                    await asyncio.sleep(0.02)
            while not engine.is_idle:
                engine.step()
            await answer
            await asyncio.sleep(0.3)  # the last interval that had a request in it
            lines = len(caplog.records)
            await asyncio.sleep(0.5)
            assert len(caplog.records) == lines
    fields = caplog.records[0].fields  # type: ignore[attr-defined]
    assert fields["running"] == 2
    assert fields["kv_cache_usage"] == 0.5
    assert fields["generation_tokens_per_second"] > 0


async def test_rates_do_not_reach_back_over_idle_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(load, "MIN_WINDOW_SECONDS", 0.5)
    async with live_app(BusyEngine()) as client:
        await client.post("/v1/completions", json=COMPLETION)
        await asyncio.sleep(1)  # the timer has run out
        monkeypatch.setattr(load, "INTERVAL_SECONDS", 100.0)
        await client.post("/v1/completions", json=COMPLETION)
        stats = (await client.get("/stats")).json()
    assert stats["tokens_per_second"] is None or stats["tokens_per_second"]["seconds"] < 0.8


async def test_it_needs_the_key() -> None:
    async with live_app(FakeEngine(), Settings(api_key=SecretStr("sk-1"))) as client:
        assert (await client.get("/stats")).status_code == 401
        assert (await client.get("/metrics")).status_code == 200
        headers = {"Authorization": "Bearer sk-1"}
        assert (await client.get("/stats", headers=headers)).status_code == 200
