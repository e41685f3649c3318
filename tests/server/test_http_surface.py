"""Everything around the completion: URLs, methods, transport, request ids, models, health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server.wire.limits import MAX_BODY_BYTES

URL = "/v1/completions"
GOOD = {"model": MODEL, "prompt": "x", "max_tokens": 2}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(engine) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "path", ["/v1/completion", "//v1/completions", "/v1/completions/", "/", "/v2/x%0Ay"]
)
async def test_unknown_urls(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(f"{str(client.base_url).rstrip('/')}{path}", json=GOOD)
    assert response.status_code == 404
    error = error_of(response)
    assert error["message"].startswith("Invalid URL (POST /")
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "PATCH"])
async def test_wrong_methods(client: httpx.AsyncClient, engine: FakeEngine, method: str) -> None:
    response = await client.request(method, URL)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    if method != "HEAD":
        assert error_of(response)["code"] == "method_not_supported"
    assert not engine.requests


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {},
    ],
)
async def test_wrong_content_types(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post(URL, content=json.dumps(GOOD), headers=headers)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_content_type"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
async def test_right_content_types(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post(URL, content=json.dumps(GOOD), headers={"Content-Type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_compressed_bodies(client: httpx.AsyncClient, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    response = await client.post(URL, content=b"\x1f\x8b", headers=headers)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_content_encoding"


async def test_a_body_over_the_cap_is_refused_unread(client: httpx.AsyncClient) -> None:
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
    )
    answer = (await reader.read()).decode().lower()  # to the end: the connection is closed
    writer.close()
    await writer.wait_closed()
    assert answer.startswith("http/1.1 413")
    assert "connection: close" in answer
    assert '"code":"request_too_large"' in answer


async def test_a_chunked_body_over_the_cap(client: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * (MAX_BODY_BYTES // 4)
        yield b" "

    headers = {"Content-Type": "application/json"}
    response = await client.post(URL, content=body(), headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


async def test_expect_100_continue(client: httpx.AsyncClient) -> None:
    headers = {"Expect": "100-continue"}
    assert (await client.post(URL, json=GOOD, headers=headers)).status_code == 200


async def test_pipelined_requests_are_answered_in_order(client: httpx.AsyncClient) -> None:
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    for i in range(100):
        writer.write(b"GET /nothing-%d HTTP/1.1\r\nHost: x\r\n" % i)
        writer.write(b"Connection: close\r\n\r\n" if i == 99 else b"\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    places = [text.index(f"(GET /nothing-{i})") for i in range(100)]
    assert places == sorted(places)


@pytest.mark.parametrize("request_id", ["a", "Trace_1.2-3", "x" * 128])
async def test_a_harmless_request_id_is_kept(client: httpx.AsyncClient, request_id: str) -> None:
    for _ in range(2):
        response = await client.get("/health", headers={"x-request-id": request_id})
        assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "\u00e9", "a;b"])
async def test_another_request_id_is_replaced(client: httpx.AsyncClient, request_id: str) -> None:
    headers = {"x-request-id": request_id.encode("latin-1")}
    response = await client.get("/health", headers=headers)
    assert response.headers["x-request-id"].startswith("req_")


async def test_models(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [card["id"] for card in body["data"]] == [MODEL, "alias"]
    assert {"id", "object", "created", "owned_by"} <= set(body["data"][0])
    assert (await client.get("/v1/models/alias")).json()["id"] == "alias"


@pytest.mark.parametrize("name", ["other", "meta%2FLlama", "meta/Llama"])
async def test_unknown_models(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


async def test_health_follows_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    engine.is_ready = False
    for response in (await client.get("/health"), await client.post(URL, json=GOOD)):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        error = error_of(response)
        assert (error["type"], error["code"]) == ("service_unavailable_error", "model_loading")
    assert (await client.get("/v1/models")).status_code == 200


async def test_a_fault_of_ours_is_an_envelope_without_details(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(requests: object) -> Any:
        raise RuntimeError("secret <object at 0x7f>")

    engine.add = broken  # type: ignore[method-assign]
    for stream in (False, True):
        response = await client.post(URL, json=GOOD | {"stream": stream})
        assert response.status_code == 500
        assert error_of(response)["type"] == "server_error"
        assert "secret" not in response.text
        assert response.headers["x-request-id"] in caplog.text


async def test_openapi_describes_the_request(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    schemas = schema["components"]["schemas"]
    operation = schema["paths"]["/v1/completions"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/CompletionRequest"
    request = schemas["CompletionRequest"]
    assert request["required"] == ["model", "prompt"]
    assert len(request["properties"]["prompt"]["anyOf"]) == 5
    assert {"type": "null"} in request["properties"]["temperature"]["anyOf"]
    assert "422" not in operation["responses"]
    assert set(_references(schema)) <= {f"#/components/schemas/{name}" for name in schemas}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)
