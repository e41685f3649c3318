"""What holds for every URL of the API: methods, unknown neighbours, request ids, descriptions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from typing import Any

import httpx
import pytest
import pytest_asyncio
from anyio import to_thread
from byte_tokenizer import byte_tokenizer
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server import version

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = {"prompt": "x", "max_tokens": 1}
MESSAGES = {"messages": [{"role": "user", "content": "Hello"}]}
# method, URL as /openapi.json has it, URL as a client asks for it, body
ROUTES: list[tuple[str, str, str, Any]] = [
    ("POST", "/v1/completions", "/v1/completions", PROMPT | {"model": MODEL}),
    (
        "POST",
        "/v1/engines/{engine}/completions",
        f"/v1/engines/{MODEL}/completions",
        PROMPT,
    ),
    ("GET", "/v1/engines", "/v1/engines", None),
    ("GET", "/v1/engines/{engine}", f"/v1/engines/{MODEL}", None),
    ("GET", "/v1/models", "/v1/models", None),
    ("GET", "/v1/models/{model_id}", f"/v1/models/{MODEL}", None),
    ("POST", "/tokenize", "/tokenize", {"prompt": "x"}),
    ("POST", "/v1/tokenize", "/v1/tokenize", {"prompt": "x"}),
    ("POST", "/detokenize", "/detokenize", {"tokens": [1]}),
    ("POST", "/v1/detokenize", "/v1/detokenize", {"tokens": [1]}),
    ("POST", "/apply-template", "/apply-template", MESSAGES),
    ("GET", "/tokenizer_info", "/tokenizer_info", None),
    ("GET", "/health", "/health", None),
    ("GET", "/metrics", "/metrics", None),
    ("GET", "/stats", "/stats", None),
    ("GET", "/livez", "/livez", None),
    ("GET", "/readyz", "/readyz", None),
    ("GET", "/version", "/version", None),
]
HEALTH = ("/health", "/livez", "/readyz")  # may be asked with HEAD too
WITH_BODY = [(path, body) for _, _, path, body in ROUTES if body is not None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    tokenizer: Any = byte_tokenizer()
    template = "{{ messages[0].content }}"
    tokenizer.description = replace(tokenizer.description, chat_template=template)
    async with live_app(FakeEngine(), tokenizer=tokenizer) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error


async def test_the_table_above_is_complete(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {(method, described_as) for method, described_as, _, _ in ROUTES} == described


@pytest.mark.parametrize(("method", "path", "body"), [(m, p, b) for m, _, p, b in ROUTES])
async def test_an_answer_has_the_id_of_its_request(
    client: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    headers = {"x-request-id": "mine-1"}
    response = await client.request(method, path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["request-id"] == "mine-1"
    kind = "text/plain" if path == "/metrics" else "application/json"
    assert response.headers["content-type"].partition(";")[0] == kind


async def test_no_answer_waits_for_a_thread(client: httpx.AsyncClient) -> None:
    """A framework runs plain functions in a few threads of its own, at a price for each request."""
    limiter = to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        for method, _, path, body in ROUTES:
            response = await client.request(method, path, json=body, timeout=20)
            assert response.status_code == 200, response.text
    finally:
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, _, path, _ in ROUTES])
async def test_other_methods_are_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    for other in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {method}:
        response = await client.request(other, path)
        assert response.status_code == 405, other
        allowed = {method, "HEAD"} if path in HEALTH else {method}
        assert set(response.headers["allow"].split(", ")) == allowed
        error = error_of(response)
        assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_supported")


# Where a URL may have a model's name in it, what follows is part of the name.
@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for method, described, path, _ in ROUTES if "{" not in described],
)
async def test_neighbours_are_unknown_and_nothing_is_redirected(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    for neighbour in (f"{path}x", f"/x{path}", path.upper()):
        response = await client.request(method, neighbour)
        assert response.status_code == 404
        assert error_of(response)["message"] == f"Invalid URL ({method} {neighbour})"
    response = await client.request(method, f"{path}/")
    assert response.status_code in (404, 405)
    error_of(response)


@pytest.mark.parametrize(("path", "body"), WITH_BODY)
async def test_what_is_no_json_body_is_refused(
    client: httpx.AsyncClient, path: str, body: Any
) -> None:
    response = await client.post(path, content=b"{}", headers={"Content-Type": "text/plain"})
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_content_type")
    for content in (b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b'{"tokens":', b""):
        headers = {"Content-Type": "application/json"}
        response = await client.post(path, content=content, headers=headers)
        assert response.status_code == 400
        assert error_of(response)["message"].startswith("We could not parse the JSON body")


@pytest.mark.parametrize(("path", "body"), WITH_BODY)
async def test_the_body_is_described(client: httpx.AsyncClient, path: str, body: Any) -> None:
    schema = (await client.get("/openapi.json")).json()
    described = {actual: described for _, described, actual, _ in ROUTES}[path]
    operation = schema["paths"][described]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    request = schema["components"]["schemas"][reference.rsplit("/", 1)[1]]
    assert set(body) >= set(request["required"])
    assert set(body) <= set(request["properties"])
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    response = (await client.post(path, json=body)).json()
    properties = schema["components"]["schemas"][answer.rsplit("/", 1)[1]]["properties"]
    assert set(response) <= set(properties)


async def test_the_version(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await client.get("/version")).json() == {"version": "0.1.0"}
    assert (await client.get("/openapi.json")).json()["info"]["version"] == "0.1.0"

    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", not_installed)
    assert (await client.get("/version")).json() == {"version": "0+unknown"}


async def test_ping_is_health() -> None:
    engine = FakeEngine()
    async with live_app(engine) as client:
        for method in ("GET", "POST"):
            response = await client.request(method, "/ping")
            assert (response.status_code, response.json()) == (200, {"status": "ok"})
            assert response.headers["x-request-id"]
        response = await client.put("/ping")
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
        engine.is_ready = False
        for method in ("GET", "POST"):
            response = await client.request(method, "/ping")
            assert (response.status_code, error_of(response)["code"]) == (503, "model_loading")
            assert response.headers["retry-after"]
