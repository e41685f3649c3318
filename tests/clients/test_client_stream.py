"""Streams against a real socket, whole and broken. Each test runs with both clients."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import octavo_client
import pytest
from fault_server import (
    DONE,
    SILENCE,
    STREAM_HEAD,
    FaultServer,
    chunk,
    event,
    framed,
    head,
    stream_answer,
)
from octavo_client import AsyncClient, Client

A, B = event(chunk("a")), event(chunk("b"))

Read = Callable[..., Coroutine[Any, Any, None]]


async def read_sync(server: FaultServer, texts: list[str], seconds: float = 5.0) -> None:
    """Read a whole stream into `texts`, which holds what came when an error is raised."""
    with (
        Client(server.base_url, timeout=seconds) as client,
        client.completions.create(model="m", prompt="", stream=True) as stream,
    ):
        for part in stream:
            texts.append(part.choices[0].text)  # noqa: PERF401 (kept when the next one raises)


async def read_async(server: FaultServer, texts: list[str], seconds: float = 5.0) -> None:
    async with (
        AsyncClient(server.base_url, timeout=seconds) as client,
        await client.completions.create(model="m", prompt="", stream=True) as stream,
    ):
        async for part in stream:
            texts.append(part.choices[0].text)  # noqa: PERF401 (kept when the next one raises)


@pytest.fixture(params=[read_sync, read_async], ids=["sync", "async"])
def read(request: pytest.FixtureRequest) -> Read:
    function: Read = request.param
    return function


@pytest.mark.parametrize(
    "pieces",
    [
        [A, B, DONE],
        [A + B + DONE],
        [bytes([byte]) for byte in A + B + DONE],
        [(A + B + DONE).replace(b"\n", b"\r\n")],
        [b": ping\n\n", A, b": ping\n\n", B, b": ping\n\n", DONE],
        [A, B, DONE, b"data: what follows the end\n\n"],
    ],
    ids=["apart", "together", "bytes", "crlf", "comments", "after the end"],
)
async def test_whole_streams(server: FaultServer, read: Read, pieces: list[bytes]) -> None:
    server.answers = [stream_answer(*pieces)]
    texts: list[str] = []
    await read(server, texts)
    assert texts == ["a", "b"]
    assert server.requests[0].json["stream"] is True


async def test_a_stream_without_end_mark(server: FaultServer, read: Read) -> None:
    server.answers = [stream_answer(A, event(chunk("b", "stop")))]
    texts: list[str] = []
    with pytest.raises(octavo_client.IncompleteStreamError, match="DONE"):
        await read(server, texts)
    assert texts == ["a", "b"]


async def test_an_end_mark_that_is_not_finished(server: FaultServer, read: Read) -> None:
    server.answers = [stream_answer(A, DONE[:-1])]
    with pytest.raises(octavo_client.IncompleteStreamError):
        await read(server, [])


@pytest.mark.parametrize("last", [framed(B)[:20], b"", b"5\r\nda"])
async def test_a_stream_cut_off(server: FaultServer, read: Read, last: bytes) -> None:
    server.answers = [[STREAM_HEAD, framed(A), last]]
    texts: list[str] = []
    with pytest.raises(octavo_client.IncompleteStreamError, match="lost"):
        await read(server, texts)
    assert texts == ["a"]


async def test_a_body_without_length_that_just_ends(server: FaultServer, read: Read) -> None:
    server.answers = [[head(kind="text/event-stream"), A]]
    with pytest.raises(octavo_client.IncompleteStreamError):
        await read(server, [])


async def test_a_connection_lost_after_the_end_mark(server: FaultServer, read: Read) -> None:
    server.answers = [[STREAM_HEAD, framed(A + DONE)]]
    texts: list[str] = []
    await read(server, texts)
    assert texts == ["a"]


async def test_a_stream_that_stands_still(server: FaultServer, read: Read) -> None:
    server.answers = [[STREAM_HEAD, framed(A), SILENCE]]
    texts: list[str] = []
    with pytest.raises(octavo_client.APITimeoutError, match="stood still"):
        await read(server, texts, seconds=0.2)
    assert texts == ["a"]


async def test_an_error_in_the_stream(server: FaultServer, read: Read) -> None:
    said = {"message": "The engine stopped.", "type": "server_error", "param": None, "code": "dead"}
    # In one piece: what came before the error is still handed out.
    server.answers = [stream_answer(A + event({"error": said}) + DONE)]
    texts: list[str] = []
    with pytest.raises(octavo_client.APIError) as raised:
        await read(server, texts)
    assert texts == ["a"]
    assert type(raised.value) is octavo_client.APIError
    assert str(raised.value) == "The engine stopped."
    assert (raised.value.type, raised.value.code) == ("server_error", "dead")


@pytest.mark.parametrize(
    "garbage", [b"data: {\n\n", b"data: []\n\n", b"data: 1\n\n", b'data: {"choices": "x"}\n\n']
)
async def test_garbage(server: FaultServer, read: Read, garbage: bytes) -> None:
    server.answers = [stream_answer(A, garbage, DONE)]
    texts: list[str] = []
    with pytest.raises(octavo_client.APIResponseValidationError):
        await read(server, texts)
    assert texts == ["a"]


def test_leaving_closes_the_connection(server: FaultServer) -> None:
    server.answers = [[STREAM_HEAD, framed(A), SILENCE], stream_answer(B, DONE)]
    with Client(server.base_url) as client:
        with client.completions.create(model="m", prompt="", stream=True) as stream:
            assert next(stream).choices[0].text == "a"
        stream.close()
        with client.completions.create(model="m", prompt="", stream=True) as stream:
            assert [part.choices[0].text for part in stream] == ["b"]
    assert server.num_connections == 2


async def test_leaving_closes_the_connection_async(server: FaultServer) -> None:
    server.answers = [[STREAM_HEAD, framed(A), SILENCE], stream_answer(B, DONE)]
    async with AsyncClient(server.base_url) as client:
        async with await client.completions.create(model="m", prompt="", stream=True) as stream:
            assert (await anext(stream)).choices[0].text == "a"
        async with await client.completions.create(model="m", prompt="", stream=True) as stream:
            assert [part.choices[0].text async for part in stream] == ["b"]
    assert server.num_connections == 2


def test_a_connection_is_used_again_after_a_stream(server: FaultServer) -> None:
    server.answers = [stream_answer(A, DONE)]
    with Client(server.base_url) as client:
        for _ in range(2):
            with client.completions.create(model="m", prompt="", stream=True) as stream:
                assert len(list(stream)) == 1
    assert server.num_connections == 1
