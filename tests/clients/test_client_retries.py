"""What is tried again, when, and how often: the rules alone, then both clients on a real socket."""

from __future__ import annotations

import socket
import time
from email.utils import formatdate
from typing import Any

import httpx
import octavo_client
import pytest
from both_faces import MakeClient, all_of, inside, settled
from fault_server import (
    DONE,
    STREAM_HEAD,
    Answer,
    FaultServer,
    chunk,
    event,
    framed,
    head,
    json_answer,
    stream_answer,
)
from octavo_client._envelope import retry_after, status_error
from octavo_client._retry import Attempts

WHOLE = json_answer(chunk(" Paris", "length"))
STREAMED = stream_answer(event(chunk(" Paris", "length")), DONE)
REFUSED = {"error": {"message": "Later.", "type": "t", "param": None, "code": "c"}}
NOW = 1_800_000_000.0


def refusal(status: int, **headers: str) -> Answer:
    """A refusal that asks for the next attempt within milliseconds, unless it says otherwise."""
    return json_answer(REFUSED, status, **({"retry_after_ms": "5"} | headers))


def error_of(status: int, **headers: str) -> octavo_client.APIStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status_error(httpx.Response(status, headers=named, content=b""))


def waits(error: octavo_client.APIError, max_retries: int, draw: float = 0.0) -> list[float]:
    """How long is waited before each further attempt when the same error comes again and again."""
    attempts = Attempts(max_retries, draw=lambda: draw)
    waits: list[float] = []
    with pytest.raises(octavo_client.APIError) as raised:
        while True:
            waits.append(attempts.next_wait(error))
    assert raised.value is error
    assert error.attempts == len(waits) + 1
    return waits


def test_waits_double_up_to_a_bound_less_a_quarter_at_most() -> None:
    assert waits(error_of(500), 6) == [0.5, 1, 2, 4, 8, 8]
    assert waits(error_of(500), 2, draw=1.0) == [0.375, 0.75]
    assert waits(error_of(500), 0) == []


def test_all_waits_together_are_bounded() -> None:
    assert sum(waits(error_of(500), 10**6)) <= 120
    assert waits(error_of(429, retry_after="50"), 10) == [50, 50]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (408, {}, [0.5]),
        (409, {}, [0.5]),
        (429, {}, [0.5]),
        (500, {}, [0.5]),
        (529, {}, [0.5]),
        (400, {}, []),
        (404, {}, []),
        (307, {}, []),
        (400, {"x_should_retry": "true"}, [0.5]),
        (503, {"x_should_retry": "false"}, []),
        (503, {"x_should_retry": "perhaps"}, [0.5]),
        (503, {"retry_after": "3"}, [3]),
        (503, {"retry_after": "3", "retry_after_ms": "20"}, [0.02]),
        (503, {"retry_after": "0"}, [0.5]),
        (503, {"retry_after": "-1"}, [0.5]),
        (503, {"retry_after": "inf"}, [0.5]),
        (503, {"retry_after": "soon"}, [0.5]),
        (503, {"retry_after": "120"}, [120]),
        (503, {"retry_after": "121"}, []),
    ],
)
def test_the_server_is_obeyed(status: int, headers: dict[str, str], expected: list[float]) -> None:
    assert waits(error_of(status, **headers), 1) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_the_forms_of_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers, NOW) == expected


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_refusals_that_pass(
    server: FaultServer, make_client: MakeClient, status: int, stream: bool
) -> None:
    server.answers = [refusal(status), refusal(status), STREAMED if stream else WHOLE]
    async with inside(make_client(server.base_url)) as client:
        answer = await settled(client.completions.create(model="m", prompt="", stream=stream))
        text = (await all_of(answer))[0] if stream else answer
    assert text.choices[0].text == " Paris"
    assert len(server.requests) == 3
    assert len({request.content for request in server.requests}) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"retry_after_ms": "300"},
        {"retry_after_ms": "x", "retry_after": "0.3"},
        {"retry_after_ms": "x", "retry_after": "DATE"},
    ],
    ids=["ms", "seconds", "date"],
)
async def test_the_wait_is_as_long_as_the_server_says(
    server: FaultServer, make_client: MakeClient, headers: dict[str, str]
) -> None:
    # A date has whole seconds: two ahead are more than one.
    date = formatdate(time.time() + 2, usegmt=True)
    given = {name: value.replace("DATE", date) for name, value in headers.items()}
    server.answers = [refusal(429, **given), WHOLE]
    async with inside(make_client(server.base_url)) as client:
        started = time.monotonic()
        await settled(client.completions.create(model="m", prompt=""))
    # With its own backoff it would have waited at least 0.375 s, with the date's more than 0.9 s.
    least = 0.9 if headers.get("retry_after") == "DATE" else 0.3
    assert time.monotonic() - started >= least


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_refusals_that_stay(
    server: FaultServer, make_client: MakeClient, stream: bool
) -> None:
    server.answers = [refusal(503, x_request_id="req-1")]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(octavo_client.InternalServerError) as raised:
            await settled(client.completions.create(model="m", prompt="", stream=stream))
    assert (raised.value.attempts, raised.value.request_id) == (3, "req-1")
    assert str(raised.value) == "Later. (3 attempts)"
    assert len(server.requests) == 3


@pytest.mark.parametrize("headers", [{"x_should_retry": "false"}, {"retry_after_ms": "999999"}])
async def test_refusals_that_are_final(
    server: FaultServer, make_client: MakeClient, headers: dict[str, str]
) -> None:
    server.answers = [refusal(429, **headers)]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(octavo_client.RateLimitError) as raised:
            await settled(client.models.list())
    assert (raised.value.attempts, len(server.requests)) == (1, 1)
    assert str(raised.value) == "Later."


@pytest.mark.parametrize(
    "broken",
    [[], [b"HTTP/1.1 200"], [head(content_length="100"), b"{"]],
    ids=["closed", "cut in its head", "cut in its body"],
)
async def test_connections_that_break(
    server: FaultServer, make_client: MakeClient, broken: Answer
) -> None:
    server.answers = [broken, WHOLE]
    async with inside(make_client(server.base_url)) as client:
        answer = await settled(client.completions.create(model="m", prompt=""))
    assert answer.choices[0].text == " Paris"
    assert len(server.requests) == 2


async def test_a_refusal_that_breaks_off(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [[head(503, content_length="100"), b"{"], STREAMED]
    async with inside(make_client(server.base_url)) as client:
        stream = await settled(client.completions.create(model="m", prompt="", stream=True))
        assert len(await all_of(stream)) == 1


async def test_a_stream_that_has_begun_is_not_begun_again(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [[STREAM_HEAD, framed(event(chunk("a")))], STREAMED]
    async with inside(make_client(server.base_url)) as client:
        stream = await settled(client.completions.create(model="m", prompt="", stream=True))
        with pytest.raises(octavo_client.IncompleteStreamError) as raised:
            await all_of(stream)
    assert raised.value.attempts == 1
    assert len(server.requests) == 1


async def test_who_has_waited_long_enough_does_not_wait_again(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [["silence"]]
    async with inside(make_client(server.base_url, timeout=0.1)) as client:
        with pytest.raises(octavo_client.APITimeoutError) as raised:
            await settled(client.models.list())
    assert (raised.value.attempts, len(server.requests)) == (1, 1)


async def test_nobody_listens_yet(make_client: MakeClient, monkeypatch: Any) -> None:
    monkeypatch.setattr("octavo_client._retry.FIRST_WAIT", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with inside(make_client(base_url)) as client:
            with pytest.raises(octavo_client.APIConnectionError, match="3 attempts") as raised:
                await settled(client.completions.create(model="m", prompt=""))
    assert raised.value.attempts == 3
    assert (raised.value.status_code, raised.value.response) == (None, None)


async def test_health_is_asked_once(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [refusal(503)]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(octavo_client.InternalServerError):
            await settled(client.health())
    assert len(server.requests) == 1
