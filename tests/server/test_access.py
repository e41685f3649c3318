"""A server with keys: who is let in, to what, and what the others are told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fake_engine import FakeEngine
from fastapi.routing import iter_route_contexts
from live_app import MODEL, live_app, new_app
from pydantic import SecretStr
from raw_http import connect

from server.access import PUBLIC_PATHS
from server.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-first"
COMPLETION = {"model": MODEL, "prompt": "x", "max_tokens": 2}
URL = "/v1/completions"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("sk-file\n")
    return file


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(key_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(api_key=SecretStr(f"{KEY},sk-second"), api_key_file=key_file)
    async with live_app(FakeEngine(), settings) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": "bearer sk-second"},
        {"Authorization": "BEARER   sk-file"},
        {"api-key": KEY},
        {"x-api-key": "sk-file"},
    ],
)
async def test_who_is_let_in(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for stream in (False, True):
        body = COMPLETION | {"stream": stream}
        assert (await client.post(URL, json=body, headers=headers)).status_code == 200
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    assert (await client.get("/v1/model", headers=headers)).status_code == 404


NO_KEY: list[list[tuple[str, bytes]]] = [[], [("Cookie", b"sk-first")]]
WRONG: list[list[tuple[str, bytes]]] = [
    [("Authorization", b"Bearer sk-wrong")],
    [("Authorization", b"Bearer sk-first,sk-second")],
    [("Authorization", b"Bearer sk-first sk-second")],
    [("Authorization", b"Bearer")],
    [("Authorization", b"")],
    [("Authorization", b"sk-first")],
    [("Authorization", b"Basic c2stZmlyc3Q6")],
    [("Authorization", b"Bearer \xd1\x81k-first")],
    [("Authorization", b"Bearer " + b"k" * 30_000)],
    [("Authorization", b"Bearer sk-first"), ("Authorization", b"Bearer sk-first")],
    [("Authorization", b"Bearer sk-wrong"), ("api-key", b"sk-first")],
    [("api-key", b"sk-wrong")],
    [("api-key", b"")],
    [("api-key", b"sk-first"), ("x-api-key", b"sk-first")],
]


@pytest.mark.parametrize(
    ("headers", "code"),
    [(headers, None) for headers in NO_KEY] + [(headers, "invalid_api_key") for headers in WRONG],
)
async def test_who_is_not(
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    headers: list[tuple[str, bytes]],
    code: str | None,
) -> None:
    with caplog.at_level(logging.DEBUG, "server"):
        for path in (URL, "/v1/model"):
            response = await client.post(path, json=COMPLETION, headers=headers)
            assert response.status_code == 401
            error = response.json()["error"]
            assert (error["type"], error["param"]) == ("invalid_request_error", None)
            assert error["code"] == code
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            assert len(response.content) < 300
            assert "sk-" not in response.text
    assert not re.search("sk-|kkk", caplog.text)


async def test_the_body_is_not_waited_for(client: httpx.AsyncClient) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for framing in (b"Content-Length: 9\r\nExpect: 100-continue", b"Transfer-Encoding: chunked"):
        async with connect(client) as connection:
            connection.send(head + framing + b"\r\n\r\n")
            answer = await connection.answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert await connection.rest() == b""
    async with connect(client) as connection:
        for _ in range(2):  # nothing outstanding: the connection stays
            connection.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await connection.answer()).status == 401


async def test_a_client_with_a_large_body_learns_why(client: httpx.AsyncClient) -> None:
    body = COMPLETION | {"prompt": "x" * 3_000_000}
    responses = await asyncio.gather(*(client.post(URL, json=body) for _ in range(8)))
    assert [response.status_code for response in responses] == [401] * 8


async def test_every_route_needs_a_key(client: httpx.AsyncClient) -> None:
    app = new_app(FakeEngine())
    paths = {context.path for context in iter_route_contexts(app.routes)}
    assert {URL, "/v1/models", "/docs", "/openapi.json", "/health", "/ping"} <= paths
    for path in paths:
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH"):
            response = await client.request(method, re.sub(r"\{.*?\}", MODEL, path or ""))
            is_public = path in PUBLIC_PATHS
            assert (response.status_code != 401) == is_public, f"{method} {path}"


async def test_what_is_public(client: httpx.AsyncClient) -> None:
    assert sorted(PUBLIC_PATHS) == ["/health", "/livez", "/metrics", "/ping", "/readyz"]
    for path in PUBLIC_PATHS - {"/metrics"}:
        assert (await client.get(path)).json() == {"status": "ok"}
    assert (await client.get("/metrics")).status_code == 200
    for path in ("//health", "/health/", "/health/x", "/v1/../health", "/HEALTH", "/x%2fhealth"):
        async with connect(client) as connection:
            connection.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
            assert (await connection.answer()).status == 401, path


@pytest.mark.parametrize("path", [URL, "/v1/models", "/docs", "/openapi.json", "/nothing"])
async def test_options_tell_nothing(client: httpx.AsyncClient, path: str) -> None:
    response = await client.options(path)
    assert response.status_code in (404, 405)
    assert ("allow" in response.headers) == (response.status_code == 405)
    assert set(response.json()) == {"error"}


async def test_openapi_says_that_a_key_is_needed(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    description = response.json()
    schemes = description["components"]["securitySchemes"]
    assert schemes == {"ApiKey": {"type": "http", "scheme": "bearer"}}
    assert description["security"] == [{"ApiKey": []}]
    assert description["paths"]["/health"]["get"]["security"] == []
    assert "security" not in description["paths"][URL]["post"]
    async with live_app(FakeEngine()) as open_client:
        description = (await open_client.get("/openapi.json")).json()
    assert "security" not in description
    assert "securitySchemes" not in description["components"]
