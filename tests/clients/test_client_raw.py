"""What goes around a call: raw answers, other options, extra headers, query and body."""

from __future__ import annotations

from typing import Any

import httpx
import octavo_client
import pytest
from both_faces import MakeClient, all_of, inside, settled
from fault_server import DONE, FaultServer, chunk, event, json_answer, stream_answer

WHOLE = json_answer(chunk(" Paris", "length"), x_request_id="req-1")
REQUEST: dict[str, Any] = {"model": "m", "prompt": "x"}


async def test_a_raw_answer(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [json_answer({}, 503, retry_after_ms="1"), WHOLE]
    async with inside(make_client(server.base_url)) as client:
        raw = await settled(client.completions.with_raw_response.create(**REQUEST))
    assert (raw.status_code, raw.request_id, raw.retries_taken) == (200, "req-1", 1)
    assert raw.headers["x-request-id"] == "req-1"
    assert (raw.method, str(raw.url)) == ("POST", f"{server.base_url}/completions")
    assert raw.json() == chunk(" Paris", "length")
    assert raw.content.decode() == raw.text
    assert raw.elapsed.total_seconds() > 0
    completion = raw.parse()
    assert completion is raw.parse()
    assert completion.choices[0].text == " Paris"
    assert completion._request_id == "req-1"


async def test_a_raw_stream(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [stream_answer(event(chunk("a")), DONE)]
    async with inside(make_client(server.base_url)) as client:
        raw = await settled(client.completions.with_raw_response.create(**REQUEST, stream=True))
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert [part.choices[0].text for part in await all_of(raw.parse())] == ["a"]


async def test_raw_models(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [json_answer({"data": [{"id": "m"}]}), json_answer({"id": "m"}), WHOLE]
    async with inside(make_client(server.base_url)) as client:
        raw = client.with_raw_response
        assert [m.id for m in (await settled(raw.models.list())).parse()] == ["m"]
        assert (await settled(client.models.with_raw_response.retrieve("m"))).parse().id == "m"
        assert (await settled(raw.completions.create(**REQUEST))).request_id == "req-1"


async def test_refusals_are_raised_all_the_same(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [json_answer({"error": {"message": "No."}}, 400)]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(octavo_client.BadRequestError):
            await settled(client.completions.with_raw_response.create(**REQUEST))


async def test_what_is_added_to_a_call(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [WHOLE, json_answer({"data": []})]
    defaults: dict[str, Any] = {
        "default_headers": {"X-Team": "a", "X-Zone": "1"},
        "default_query": {"version": "1"},
    }
    async with inside(make_client(server.base_url, api_key="k", **defaults)) as client:
        await settled(
            client.completions.create(
                **REQUEST,
                extra_headers={"x-team": "b", "Authorization": "Other"},
                extra_query={"trace": True, "tag": ["p", "q"]},
                extra_body={"grammar": "g", "prompt": "y"},
            )
        )
        await settled(client.models.list(extra_query={"version": 2}))
    first, second = server.requests
    assert first.path == "/v1/completions?version=1&trace=true&tag=p&tag=q"
    assert first.headers["x-team"] == "b"
    assert first.headers["x-zone"] == "1"
    assert first.headers["authorization"] == "Other"
    assert first.json == {"model": "m", "prompt": "y", "stream": False, "grammar": "g"}
    assert second.path == "/v1/models?version=2"
    assert second.headers["x-team"] == "a"


async def test_other_options(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [WHOLE]
    async with inside(
        make_client(server.base_url, api_key="k", default_headers={"X-A": "1"})
    ) as client:
        other = client.with_options(
            base_url=server.base_url.replace("/v1", "/x/v1"),
            api_key="other",
            default_headers={"X-B": "2"},
        )
        assert type(other) is type(client)
        for each in (client, other, client):
            await settled(each.completions.create(**REQUEST))
        await settled(other.close())  # its connections are the first one's
        await settled(client.completions.create(**REQUEST))
    assert [r.path for r in server.requests] == [
        *("/v1/completions", "/x/v1/completions", "/v1/completions", "/v1/completions")
    ]
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == ["Bearer k", "Bearer other", "Bearer k", "Bearer k"]
    assert server.requests[1].headers["x-a"] == "1"
    assert ["x-b" in request.headers for request in server.requests] == [False, True, False, False]
    assert server.num_connections == 1


async def test_options_of_a_single_call(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [json_answer({}, 503, retry_after_ms="1"), ["silence"]]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(octavo_client.InternalServerError):
            await settled(client.with_options(max_retries=0).models.list())
        assert len(server.requests) == 1
        with pytest.raises(octavo_client.APITimeoutError):
            await settled(client.with_options(timeout=0.1).models.list())
        with pytest.raises(octavo_client.APITimeoutError):
            await settled(client.models.list(timeout=httpx.Timeout(0.1)))


def test_options_that_there_are_not(make_client: MakeClient) -> None:
    client: Any = make_client("http://host/v1")
    with pytest.raises(TypeError, match="retries"):
        client.with_options(retries=1)
    with pytest.raises(ValueError, match="max_retries"):
        client.with_options(max_retries=-1)


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("completions.create", {**REQUEST, "max_token": 1}, "did you mean 'max_tokens'"),
        ("completions.create", {**REQUEST, "zzz": 1}, "extra_body"),
        ("completions.create", {"prompt": ""}, "needs 'model'"),
        ("completions.create", {"model": ""}, "needs 'prompt'"),
        ("models.list", {"timeouts": 1}, "did you mean 'timeout'"),
        ("models.retrieve", {"model": "m", "timeouts": 1}, "timeout"),
        ("tokenize", {"prompt": "", "timeouts": 1}, "timeout"),
        ("detokenize", {"tokens": [], "timeouts": 1}, "timeout"),
        ("health", {"timeouts": 1}, "timeout"),
    ],
)
async def test_parameters_that_there_are_not(
    server: FaultServer,
    make_client: MakeClient,
    call: str,
    arguments: dict[str, Any],
    expected: str,
) -> None:
    async with inside(make_client(server.base_url)) as client:
        method: Any = client
        for name in call.split("."):
            method = getattr(method, name)
        with pytest.raises(TypeError, match=expected):
            await settled(method(**arguments))
    assert server.requests == []
