"""Everything around the completion: URLs, methods, transport, request ids, models, health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server.settings import Settings

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


@pytest.mark.parametrize("path", [URL, "/v1/models", "/health", "/metrics", "/nothing"])
async def test_no_other_page_may_read_an_answer(client: httpx.AsyncClient, path: str) -> None:
    """CORS is off: a browser asks before it sends JSON, is told no, and shows no answer."""
    headers = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    for method in ("OPTIONS", "GET", "POST"):
        response = await client.request(method, path, headers=headers)
        assert not [name for name in response.headers if name.startswith("access-control")]
        if method == "OPTIONS":
            assert response.status_code in (404, 405)


async def test_every_operation_describes_its_refusals(client: httpx.AsyncClient) -> None:
    """Any may be refused by the connection (400, 408, 414, 421, 431), the key (401) or for lack of
    room (503)."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert len(paths) > 10
    for path, operations in paths.items():
        for method, operation in operations.items():
            for status in ("4XX", "5XX"):
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/ErrorResponse"), (method, path)


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


async def test_openapi_says_what_unknown_parameters_are() -> None:
    for allowed in (False, True):
        async with live_app(FakeEngine(), Settings(allow_unknown_params=allowed)) as client:
            schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
            for name in ("CompletionRequest", "EngineCompletionRequest", "TokenizeRequest"):
                assert schemas[name]["additionalProperties"] is allowed
            body = GOOD | {"made_up": 1}
            assert (await client.post(URL, json=body)).status_code == (200 if allowed else 400)


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


async def test_openapi_says_of_every_field_what_it_may_be(client: httpx.AsyncClient) -> None:
    """And not that it may be anything."""
    schema = (await client.get("/openapi.json")).json()
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for operations in schema["paths"].values()
        for operation in operations.values()
        if "requestBody" in operation
    ]
    assert len(bodies) > 5
    for body in ("StreamOptions", *(reference.rpartition("/")[2] for reference in bodies)):
        for name, field in schema["components"]["schemas"][body]["properties"].items():
            for kind in field.get("anyOf", [field]):
                assert kind.keys() & {"type", "const", "$ref"}, (body, name)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)
