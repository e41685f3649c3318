"""Spans as a collector gets them."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time

import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_receiver import Receiver, attributes, otlp_receiver

from engine import Failure
from server.logs import JsonFormatter
from server.observe import tracing
from server.observe.tracing import MISSING, open_tracing
from server.settings import wants_traces

URL = "/v1/completions"
COMPLETION = {"model": MODEL, "prompt": "xyz", "max_tokens": 4}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without anything that the machine says of traces; spans go out at once."""
    for name in ("EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT", "SDK_DISABLED"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    return monkeypatch


@pytest.fixture
def receiver(environment: pytest.MonkeyPatch) -> Receiver:  # type: ignore[misc]
    with otlp_receiver() as receiver:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


async def spans(receiver: Receiver, num_spans: int) -> list[Span]:
    found = await asyncio.to_thread(receiver.wait, num_spans)
    assert len(found) == num_spans
    return found


async def test_a_span_says_what_the_conventions_ask_for(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "octavo.request")
    engine = FakeEngine()
    engine.num_cached_tokens = 2
    body = COMPLETION | {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["!"], "n": 2}
    before = time.time_ns()
    async with live_app(engine) as client:
        answer = (await client.post(URL, json=body)).json()
        await client.get("/health")
        await client.get("/v1/models")
        [span] = await spans(receiver, 1)
    assert receiver.paths == {"/v1/traces"}
    assert receiver.resource["service.name"] == "octavo"
    assert span.name == f"text_completion {MODEL}"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.status.code == Status.STATUS_CODE_UNSET
    found = attributes(span)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < 60
    assert found.pop("octavo.request_id").startswith("req_")
    assert found == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "octavo",
        "gen_ai.output.type": "text",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ["!"],
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ["length", "length"],
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "http.request.method": "POST",
        "http.route": URL,
        "http.response.status_code": 200,
    }
    assert before <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    [event] = span.events
    assert event.name == "octavo.first_token"
    assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
    [record] = [record for record in caplog.records if record.name == "octavo.request"]
    assert json.loads(JsonFormatter().format(record))["trace_id"] == span.trace_id.hex()
    assert "xyz" not in str(span)


async def test_it_belongs_to_the_callers_trace(receiver: Receiver) -> None:
    async with live_app(FakeEngine()) as client:
        for flags in ("01", "00"):
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "tracestate": "a=b"}
            await client.post(URL, json=COMPLETION, headers=headers)
        for headers in ({"traceparent": "00-nonsense"}, {"traceparent": f"00-{'0' * 32}-x-01"}):
            await client.post(URL, json=COMPLETION, headers=headers)
        found = await spans(receiver, 3)  # the caller did not want the second one recorded
    first, *others = found
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert first.trace_state == "a=b"
    assert all(not span.parent_span_id and span.trace_id.hex() != TRACE for span in others)


async def test_errors_are_marked(receiver: Receiver) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        await client.post(URL, json=COMPLETION | {"n": 0})
        failing = asyncio.create_task(client.post(URL, json=COMPLETION))
        await engine.until(lambda: bool(engine.requests))
        engine.fail(engine.requests[0], Failure("numerical_error", "no numbers"))
        await failing
        refused, failed = await spans(receiver, 2)
    assert refused.name == "text_completion"
    for span, status, error in (
        (refused, 400, "integer_below_min_value"),
        (failed, 500, "numerical_error"),
    ):
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert attributes(span)["error.type"] == error
        assert attributes(span)["http.response.status_code"] == status


async def test_a_dead_collector_costs_nothing(environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        port = silent.getsockname()[1]
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        environment.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # its thread must not outlive this
        environment.setattr(tracing, "LAST_SPANS_SECONDS", 0.2)
        async with live_app(FakeEngine()) as client:
            for _ in range(5):
                assert (await client.post(URL, json=COMPLETION)).status_code == 200
        traces = open_tracing(wants_traces())
        assert traces is not None
        before = time.monotonic()
        traces.close()
        assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide(
    environment: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert wants_traces() is expected


def test_missing_packages_are_one_clear_line(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert open_tracing(True) is None
    assert [record.message for record in caplog.records] == [MISSING]
    assert "\n" not in MISSING
    assert "octavo-server[otel]" in MISSING
