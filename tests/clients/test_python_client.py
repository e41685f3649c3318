"""The two clients against a real socket. Each test that can runs with both of them.

Without retries, which have a file of their own.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from typing import Any

import httpx
import octavo_client
import pytest
from both_faces import MakeClient
from fault_server import FaultServer, chunk, head, json_answer
from octavo_client import APIError, AsyncClient, Client, Completion
from octavo_client._config import ClientConfig

WHOLE = {
    **chunk(" Paris", "length"),
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}

Call = Callable[..., Any]


async def sync_call(base_url: str, path: str, **arguments: Any) -> Any:
    """One call with a `Client`: `path` is its name, such as "models.list"."""
    options = {"max_retries": 0} | arguments.pop("client", {})
    with Client(base_url, **options) as client:
        method: Any = client
        for name in path.split("."):
            method = getattr(method, name)
        return method(**arguments)


async def async_call(base_url: str, path: str, **arguments: Any) -> Any:
    options = {"max_retries": 0} | arguments.pop("client", {})
    async with AsyncClient(base_url, **options) as client:
        method: Any = client
        for name in path.split("."):
            method = getattr(method, name)
        return await method(**arguments)


@pytest.fixture(params=[sync_call, async_call], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    function: Call = request.param
    return function


async def test_a_completion(server: FaultServer, call: Call) -> None:
    server.answers = [json_answer(WHOLE)]
    answer = await call(
        server.base_url,
        "completions.create",
        model="m",
        prompt=[1, 2],
        logit_bias={"5": 1.0},
        extra_body={"x": None},
        client={"api_key": "secret"},
    )
    assert isinstance(answer, Completion)
    assert answer.choices[0].text == " Paris"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/completions")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["user-agent"].startswith("octavo-client/")
    assert request.json == {
        "model": "m",
        "prompt": [1, 2],
        "logit_bias": {"5": 1.0},
        "stream": False,
        "x": None,
    }


async def test_unknown_fields_are_kept(server: FaultServer, call: Call) -> None:
    server.answers = [json_answer({**WHOLE, "novelty": {"a": 1}})]
    answer = await call(server.base_url, "completions.create", model="m", prompt="")
    assert answer.model_dump()["novelty"] == {"a": 1}


async def test_models_and_health(server: FaultServer, call: Call) -> None:
    model = {"id": "m", "object": "model", "created": 1, "owned_by": "octavo"}
    server.answers = [
        json_answer({"object": "list", "data": [model]}),
        json_answer(model),
        json_answer({"status": "ok"}),
    ]
    models = await call(server.base_url, "models.list")
    assert [model.id for model in models.data] == ["m"] == [model.id for model in models]
    assert (await call(server.base_url, "models.retrieve", model="m")).owned_by == "octavo"
    assert (await call(server.base_url, "health")).status == "ok"
    assert [r.path for r in server.requests] == ["/v1/models", "/v1/models/m", "/health"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (307, octavo_client.APIStatusError),
        (400, octavo_client.BadRequestError),
        (401, octavo_client.AuthenticationError),
        (403, octavo_client.PermissionDeniedError),
        (404, octavo_client.NotFoundError),
        (409, octavo_client.ConflictError),
        (413, octavo_client.APIStatusError),
        (422, octavo_client.UnprocessableEntityError),
        (429, octavo_client.RateLimitError),
        (500, octavo_client.InternalServerError),
        (503, octavo_client.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_statuses(
    server: FaultServer, call: Call, status: int, expected: type[APIError], stream: bool
) -> None:
    body = {"error": {"message": "No.", "type": "t", "param": "prompt", "code": "c"}}
    server.answers = [json_answer(body, status, x_request_id="req-1", retry_after="2")]
    with pytest.raises(octavo_client.APIStatusError) as raised:
        await call(server.base_url, "completions.create", model="m", prompt="", stream=stream)
    error = raised.value
    assert type(error) is expected
    assert str(error) == "No."
    assert (error.status_code, error.type, error.param, error.code) == (status, "t", "prompt", "c")
    assert (error.request_id, error.retry_after) == ("req-1", 2.0)
    assert error.body == body
    assert error.response.status_code == status
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own, as a pool of processes does)
    assert (type(again), str(again), again.param) == (expected, "No.", "prompt")


@pytest.mark.parametrize("body", [b"<html>oops</html>", b"", b"[1]", b'{"error": null}', b"\xff"])
async def test_a_status_with_any_body(server: FaultServer, call: Call, body: bytes) -> None:
    server.answers = [json_answer(body, 502, retry_after="soon")]
    with pytest.raises(octavo_client.InternalServerError, match="HTTP 502") as raised:
        await call(server.base_url, "completions.create", model="m", prompt="")
    assert raised.value.retry_after is None
    assert raised.value.code is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"choices": 1}', b"\xff\xfe"])
async def test_success_that_is_none(server: FaultServer, call: Call, body: bytes) -> None:
    server.answers = [json_answer(body, x_request_id="req-1")]
    with pytest.raises(octavo_client.APIResponseValidationError) as raised:
        await call(server.base_url, "completions.create", model="m", prompt="")
    assert raised.value.request_id == "req-1"


async def test_nobody_listens(call: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(octavo_client.APIConnectionError, match="no answer from"):
            await call(base_url, "models.list")


@pytest.mark.parametrize("answer", [[], [b"HTTP/1.1 200"], [b"nonsense\r\n\r\n"]])
async def test_a_broken_answer(server: FaultServer, call: Call, answer: list[bytes | str]) -> None:
    server.answers = [answer]
    with pytest.raises(octavo_client.APIConnectionError):
        await call(server.base_url, "models.list")


async def test_an_answer_cut_in_its_body(server: FaultServer, call: Call) -> None:
    server.answers = [[head(content_length="100"), b"{"]]
    with pytest.raises(octavo_client.APIConnectionError):
        await call(server.base_url, "models.list")


@pytest.mark.parametrize("stream", [False, True])
async def test_timeouts(server: FaultServer, call: Call, stream: bool) -> None:
    server.answers = [["silence"]]
    arguments = {"model": "m", "prompt": "", "stream": stream}
    with pytest.raises(octavo_client.APITimeoutError):
        await call(server.base_url, "completions.create", **arguments, client={"timeout": 0.05})
    with pytest.raises(octavo_client.APITimeoutError):
        await call(server.base_url, "completions.create", **arguments, timeout=0.05)


def test_a_connection_is_used_again(server: FaultServer) -> None:
    server.answers = [json_answer(WHOLE), json_answer({"error": {}}, 400), json_answer(WHOLE)]
    with Client(server.base_url) as client:
        client.completions.create(model="m", prompt="")
        with pytest.raises(octavo_client.BadRequestError):
            client.completions.create(model="m", prompt="")
        client.completions.create(model="m", prompt="")
    assert server.num_connections == 1


@pytest.mark.parametrize(
    ("environment", "base_url", "key"),
    [
        ({}, "http://127.0.0.1:8000/v1", None),
        ({"OPENAI_BASE_URL": "https://o/v1", "OPENAI_API_KEY": "ok"}, "https://o/v1", "ok"),
        ({"OCTAVO_BASE_URL": "https://a/x/v1/", "OPENAI_API_KEY": "ok"}, "https://a/x/v1", "ok"),
        (
            {
                "OCTAVO_BASE_URL": "https://a/v1",
                "OPENAI_BASE_URL": "https://o/v1",
                "OCTAVO_API_KEY": " ak\n",
                "OPENAI_API_KEY": "ok",
            },
            "https://a/v1",
            "ak",
        ),
        ({"OCTAVO_BASE_URL": "", "OCTAVO_API_KEY": ""}, "http://127.0.0.1:8000/v1", None),
    ],
)
def test_the_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], base_url: str, key: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = ClientConfig.resolve()
    assert (config.base_url, config.api_key) == (base_url, key)
    assert config.headers.get("Authorization") == (key and f"Bearer {key}")
    given = ClientConfig.resolve("http://other/v1", "mine")
    assert (given.base_url, given.api_key) == ("http://other/v1", "mine")
    assert "mine" not in repr(given)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"base_url": "localhost:8000/v1"}, "http://"),
        ({"base_url": "http://"}, "http://"),
        ({"base_url": "http:///v1"}, "no host"),
        ({"base_url": "http://host:port/v1"}, "not a URL"),
        ({"base_url": "http://host/v1?version=1"}, "default_query"),
        ({"base_url": "http://host", "api_key": "schl\u00fcssel"}, "ASCII"),
        ({"base_url": "http://host", "api_key": "two\nlines"}, "printable"),
        ({"base_url": "http://host", "max_retries": -1}, "max_retries"),
    ],
)
def test_what_cannot_be_a_server(
    make_client: MakeClient, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        make_client(**arguments)


async def test_names_of_models_in_a_url(server: FaultServer, call: Call) -> None:
    server.answers = [json_answer({"id": "m"})]
    await call(server.base_url, "models.retrieve", model="org/a model?#%")
    assert server.requests[0].path == "/v1/models/org/a%20model%3F%23%25"
    with pytest.raises(ValueError, match="name of a model"):
        await call(server.base_url, "models.retrieve", model="")


async def test_tokens(server: FaultServer, call: Call) -> None:
    server.answers = [
        json_answer({"count": 1, "max_model_len": 9, "tokens": [5], "token_strs": ["a"]}),
        json_answer({"prompt": "a"}),
    ]
    tokens = await call(server.base_url, "tokenize", prompt="a", model="m", return_token_strs=True)
    assert (tokens.count, tokens.tokens, tokens.token_strs) == (1, [5], ["a"])
    assert (await call(server.base_url, "detokenize", tokens=(5,))).prompt == "a"
    first, second = server.requests
    assert (first.path, second.path) == ("/tokenize", "/detokenize")
    assert first.json == {
        "model": "m",
        "prompt": "a",
        "add_special_tokens": True,
        "return_token_strs": True,
    }
    assert second.json == {"tokens": [5]}


async def test_an_answer_that_cannot_be_unpacked(server: FaultServer, call: Call) -> None:
    server.answers = [json_answer(b"not gzip", content_encoding="gzip")]
    with pytest.raises(octavo_client.APIResponseValidationError, match="garbled"):
        await call(server.base_url, "models.list")


async def test_the_timeout_may_be_none(server: FaultServer, call: Call) -> None:
    server.answers = [json_answer({"data": []})]
    assert (await call(server.base_url, "models.list", timeout=None)).data == []
    assert (await call(server.base_url, "models.list", client={"timeout": None})).data == []


def test_a_client_of_the_callers_own_stays_open(server: FaultServer) -> None:
    server.answers = [json_answer({"data": []})]
    with httpx.Client() as http:
        with Client(server.base_url, http_client=http) as client:
            client.models.list()
        assert not http.is_closed


def test_a_host_alone_is_the_address_of_the_first_version() -> None:
    for url in ("http://other:1", "http://other:1/"):
        with Client(url) as client:
            assert client.base_url == "http://other:1/v1"
