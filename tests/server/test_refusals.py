"""What is refused before it comes to a route is counted and logged as other requests are."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from fake_engine import FakeEngine
from live_app import live_app
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from raw_http import Connection, connect

from server.hosts import AllowedHosts
from server.logs import ConsoleFormatter, JsonFormatter
from server.settings import Settings

GET = b"GET /health HTTP/1.1\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ID = b"X-Request-Id: mine-1\r\n"


class Seen:
    """What there is to see of the one refused request, in the log and in `/metrics`."""

    def __init__(self, records: list[logging.LogRecord], page: str) -> None:
        lines = [record for record in records if record.name == "octavo.request"]
        assert len(lines) == 1, [line.getMessage() for line in lines]
        self.fields: dict[str, Any] = json.loads(JsonFormatter().format(lines[0]))
        self.text = ConsoleFormatter().format(lines[0])
        self.counts = {
            (sample.labels["handler"], sample.labels["method"], sample.labels["status"])
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "octavo:http_requests_total"
        } - {("/metrics", "GET", "200")}
        self.num_in_flight = sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "octavo:http_requests_in_flight"
        )


ROWS = [
    # What is sent, the answer, the method that could be told, the route.
    (b"garbage\r\n\r\n", 400, None, "other", None),
    (GET + ID + b"\r\n", 400, None, "GET", None),
    (GET + ID + b"Host: a\r\nHost: b\r\n\r\n", 400, None, "GET", None),
    (GET + ID + b"Host: evil.example\r\n\r\n", 421, "host_not_allowed", "GET", None),
    (GET + ID + b"A: %s\r\n\r\n" % (b"a" * 40_000), 431, "headers_too_large", "GET", None),
    (b"GET /" + b"a" * 9000, 414, "url_too_long", "GET", None),
    (GET + ID + b"A: ", 408, "request_timeout", "GET", None),
    (b"\r\n", 408, "request_timeout", "other", None),
    # Of these the application has seen the head and waits for the body.
    (POST + ID + b"Content-Length: 9\r\n\r\n{", 408, "request_timeout", "POST", "completions"),
    (POST + ID + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, None, "POST", "completions"),
]


async def refusal(connection: Connection, request: bytes, status: int) -> str:
    """The id of the refused request, which its answer has in both headers."""
    connection.send(request)
    answer = await connection.answer()
    assert answer.status == status, answer.body
    assert await connection.rest() == b""
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    return answer.headers["x-request-id"]


@pytest.mark.parametrize(("request_", "status", "code", "method", "route"), ROWS)
async def test_a_refusal_of_the_connection(
    caplog: pytest.LogCaptureFixture,
    request_: bytes,
    status: int,
    code: str | None,
    method: str,
    route: str | None,
) -> None:
    caplog.set_level(logging.INFO, "octavo.request")
    hosts = AllowedHosts(())
    async with live_app(FakeEngine(), hosts=hosts, receive_deadline=0.3) as client:
        async with connect(client) as connection:
            request_id = await refusal(connection, request_, status)
        async with asyncio.timeout(30):  # the application may learn of it after the client
            while not caplog.records:  # noqa: ASYNC110 - logging sets no event
                await asyncio.sleep(0.01)
        page = (await client.get("/metrics")).text
    seen = Seen(caplog.records, page)
    path = route and f"/v1/{route}"
    assert seen.counts == {(path or "none", method, str(status))}
    assert seen.num_in_flight == 1  # the one that asks
    expected = {
        "event": "request_refused",
        "request_id": request_id,
        "client": "127.0.0.1",
        "route": path,
        "status": status,
        "error_type": "invalid_request_error",
        "error_code": code,
        "key_name": None,
    }
    assert seen.fields.items() >= expected.items()
    assert f"{request_id} {status} in" in seen.text
    assert (request_id == "mine-1") == (ID in request_)


async def test_a_connection_too_many(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo.request")
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_connections=2)) as client:
        body = b'{"model": "fake-model", "prompt": "x"}'
        request = POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        async with connect(client) as first, connect(client) as second:
            for number, connection in enumerate((first, second), 1):
                connection.send(request)
                await engine.until(lambda number=number: len(engine.requests) == number)
            async with connect(client) as third:
                request_id = await refusal(third, b"", 503)
            line = JsonFormatter().format(caplog.records[-1])
            while not engine.is_idle:
                engine.step()
            for connection in (first, second):
                assert (await connection.answer()).status == 200
        page = (await client.get("/metrics")).text
    fields = json.loads(line)
    assert (fields["request_id"], fields["status"]) == (request_id, 503)
    assert 'handler="none",method="other",model_name="fake-model",status="503"} 1.0' in page


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"Authorization": "Bearer sk-wrong-key"}, "invalid_api_key"),
        ({"api-key": "sk-wrong-key"}, "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/nothing"])
async def test_a_wrong_key_is_logged_without_it(
    caplog: pytest.LogCaptureFixture, headers: dict[str, str], code: str | None, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with live_app(FakeEngine(), Settings(api_key=SecretStr("sk-good-key"))) as client:
        response = await client.post(path, json={}, headers=headers)
        assert response.status_code == 401
        page = (await client.get("/metrics")).text
    seen = Seen(caplog.records, page)
    expected = {
        "event": "request_refused",
        "request_id": response.headers["x-request-id"],
        "status": 401,
        "error_type": "invalid_request_error",
        "error_code": code,
        "route": None,
        "key_name": None,
    }
    assert seen.fields.items() >= expected.items()
    assert seen.counts == {("none", "POST", "401")}
    shown = caplog.text + page + json.dumps(seen.fields) + seen.text
    assert "wrong-key" not in shown
    assert "good-key" not in shown


async def test_what_a_route_refuses_has_no_second_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo.request")
    async with live_app(FakeEngine()) as client:
        for path in ("/nothing", "/health", "/docs", "/openapi.json", "/v1/models/none"):
            await client.get(path)
        await client.get("/v1/completions")
        await client.put("/v1/models")
        await client.post("/tokenize", json={})
    lines = [record for record in caplog.records if record.name == "octavo.request"]
    assert [json.loads(JsonFormatter().format(line))["status"] for line in lines] == [405]
