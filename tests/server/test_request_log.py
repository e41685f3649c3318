"""A line for each completion, whatever became of it, and for nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app
from pydantic import SecretStr
from raw_http import connect

from engine import Failure
from server.logs import ConsoleFormatter, JsonFormatter
from server.observe.metrics import RequestMetrics
from server.settings import Settings

URL = "/v1/completions"
COMPLETION = {"model": MODEL, "prompt": "abc", "max_tokens": 4}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "octavo.request")
    return caplog


def parsed(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines as a program reads them."""
    records = [record for record in caplog.records if record.name == "octavo.request"]
    return [json.loads(JsonFormatter().format(record)) for record in records]


async def test_a_finished_request(lines: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.num_cached_tokens = 2
    headers = {"x-request-id": "mine-1"}
    async with live_app(engine) as client:
        answer = await client.post(URL, json=COMPLETION | {"n": 2}, headers=headers)
        for path in ("/health", "/metrics", "/stats", "/v1/models", "/nowhere"):
            await client.get(path)
    [line] = parsed(lines)
    usage = answer.json()["usage"]
    expected = {
        "event": "request_finished",
        "level": "info",
        "request_id": "mine-1",
        "completion_id": answer.json()["id"],
        "client": "127.0.0.1",
        "route": URL,
        "status": 200,
        "model": MODEL,
        "n": 2,
        "max_tokens": 4,
        "stream": False,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": 8,
        "cached_tokens": 2,
        "finish_reason": "length",
        "error_type": None,
        "error_code": None,
        "key_name": None,
    }
    assert expected.items() <= line.items()
    assert 0 < line["itl_ms"] <= line["ttft_ms"] + line["e2e_ms"]
    assert line["ttft_ms"] <= line["e2e_ms"]
    assert "prompt" not in line


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_went_away(lines: pytest.LogCaptureFixture, stream: bool) -> None:
    engine = FakeEngine(manual=True)
    body = json.dumps(COMPLETION | {"stream": stream}).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % URL.encode()
    async with live_app(engine) as client:
        async with connect(client) as connection:
            connection.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await engine.until(lambda: bool(engine.requests))
            engine.step()
            await asyncio.sleep(0.05)
        await engine.until(lambda: bool(engine.aborts))
    [line] = parsed(lines)
    assert line["event"] == "request_aborted"
    assert line["status"] == 499
    assert line["finish_reason"] == "abort"
    assert line["completion_tokens"] == 1
    assert line["stream"] is stream
    assert line["ttft_ms"] > 0


REFUSED = [
    (COMPLETION | {"n": 0}, 400, "integer_below_min_value", None),
    (COMPLETION | {"model": "nobody's"}, 404, "model_not_found", "nobody's"),
    (COMPLETION | {"model": "x" * 10**6}, 404, "model_not_found", "x" * 256),
    (COMPLETION | {"max_tokens": 10**6}, 400, "context_length_exceeded", MODEL),
]


@pytest.mark.parametrize(("body", "status", "code", "model"), REFUSED)
async def test_a_refused_request(
    lines: pytest.LogCaptureFixture, body: dict[str, Any], status: int, code: str, model: str | None
) -> None:
    async with live_app(FakeEngine()) as client:
        assert (await client.post(URL, json=body)).status_code == status
    [line] = parsed(lines)
    assert line["event"] == "request_refused"
    assert (line["status"], line["error_code"], line["model"]) == (status, code, model)
    assert line["ttft_ms"] is None


async def test_failures(lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        failing = asyncio.create_task(client.post(URL, json=COMPLETION))
        await engine.until(lambda: len(engine.requests) == 1)
        engine.fail(engine.requests[0], Failure("numerical_error", "no numbers"))
        await failing
        dying = asyncio.create_task(client.post(URL, json=COMPLETION | {"stream": True}))
        await engine.until(lambda: len(engine.requests) == 2)
        engine.step()
        engine.die()
        await dying
        await client.post(URL, json=COMPLETION)
        engine.is_ready = True
        monkeypatch.setattr(engine, "add", None)
        await client.post(URL, json=COMPLETION)
    alone, cut_off, away, broken = parsed(lines)
    assert (alone["event"], alone["status"]) == ("request_failed", 500)
    assert (alone["error_code"], alone["finish_reason"]) == ("numerical_error", "error")
    assert (cut_off["event"], cut_off["status"]) == ("request_failed", 200)
    assert (cut_off["error_code"], cut_off["finish_reason"]) == ("engine_restarting", "error")
    assert (away["event"], away["error_code"]) == ("request_refused", "model_loading")
    assert (broken["event"], broken["status"]) == ("request_failed", 500)
    assert broken["error_type"] == "server_error"


async def test_whose_key_it_was(lines: pytest.LogCaptureFixture) -> None:
    async with live_app(FakeEngine(), Settings(api_key=SecretStr("sk-one,sk-two"))) as client:
        for key in ("sk-one", "sk-two", "sk-one"):
            await client.post(URL, json=COMPLETION, headers={"Authorization": f"Bearer {key}"})
    names = [line["key_name"] for line in parsed(lines)]
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("key-") for name in names)
    assert "sk-" not in lines.text


PROMPT = "secret\n2026-01-01 ERROR forged\x1b[31m"


@pytest.mark.parametrize("logs_prompts", [False, True])
async def test_prompts_are_logged_if_asked_only(
    lines: pytest.LogCaptureFixture, logs_prompts: bool
) -> None:
    lines.set_level(logging.DEBUG)
    async with live_app(FakeEngine(), Settings(log_prompts=logs_prompts)) as client:
        await client.post(URL, json=COMPLETION | {"prompt": [PROMPT, "y" * 9000]})
        await client.post(URL, json=COMPLETION | {"prompt": [1, 2, 3]})
    text = "\n".join(
        formatter.format(record)
        for record in lines.records
        for formatter in (JsonFormatter(), ConsoleFormatter())
    )
    assert ("secret" in text) == ("yyyy" in text) == logs_prompts
    assert "\n2026-01-01" not in text
    assert "\x1b" not in text
    if logs_prompts:
        texts, ids = parsed(lines)
        assert texts["prompt"] == [PROMPT, "y" * 2000]
        assert ids["prompt"] == [[1, 2, 3]]


async def test_a_model_name_cannot_forge_a_line(lines: pytest.LogCaptureFixture) -> None:
    name = 'x"}\n{"event": "request_finished", "status": 200}'
    async with live_app(FakeEngine(), Settings(model_alias_any=True)) as client:
        answer: httpx.Response = await client.post(URL, json=COMPLETION | {"model": name})
    assert answer.status_code == 200
    [record] = [record for record in lines.records if record.name == "octavo.request"]
    for formatter in (JsonFormatter(), ConsoleFormatter()):
        assert len(formatter.format(record).splitlines()) == 1
    [line] = parsed(lines)
    assert line["model"] == name


async def test_what_cannot_be_reported_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch, lines: pytest.LogCaptureFixture
) -> None:
    def broken(self: RequestMetrics, record: object) -> None:
        raise RuntimeError("no more metrics")

    monkeypatch.setattr(RequestMetrics, "ended", broken)
    async with live_app(FakeEngine()) as client:
        assert (await client.post(URL, json=COMPLETION)).status_code == 200
    assert "could not be reported" in lines.text
    assert len(parsed(lines)) == 1  # the others are told
