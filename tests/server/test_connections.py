"""Connections: how many, who gives way, readers that stop, and answers without chunks."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app, serving
from raw_http import Connection, connect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.connections import RESERVED_FILES, Connections
from server.http_server import HttpServer
from server.settings import Settings
from server.wire.limits import MAX_CONNECTIONS

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 32 * 2**20
URL = "/v1/completions"
BODY: dict[str, Any] = {"model": MODEL, "prompt": "p", "max_tokens": 2}


def completion(version: str = "1.1", **fields: Any) -> bytes:
    body = json.dumps(BODY | fields).encode()
    head = f"POST {URL} HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def is_served(connection: Connection) -> None:
    connection.send(GET)
    assert (await connection.answer()).status == 200


# How many.


async def test_the_longest_idle_connection_gives_way() -> None:
    async with (
        live_app(FakeEngine(), Settings(max_connections=2)) as client,
        connect(client) as first,
        connect(client) as second,
    ):
        for connection in (first, second, first):
            await is_served(connection)
        async with connect(client) as third:
            await is_served(third)
            assert await second.rest() == b""
            await is_served(first)


async def test_a_connection_that_says_nothing_gives_way() -> None:
    async with live_app(FakeEngine(), Settings(max_connections=2)) as client:
        for _ in range(5):
            async with connect(client) as silent, connect(client) as half:
                half.send(GET[:-2])
                async with connect(client) as third:
                    await is_served(third)
                assert await silent.rest() == b""


async def test_requests_under_way_do_not_give_way() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_connections=2)) as client:
        async with connect(client) as first, connect(client) as second:
            for number, connection in enumerate((first, second), 1):
                connection.send(completion())
                await engine.until(lambda number=number: len(engine.requests) == number)
            async with connect(client) as third:
                answer = await third.answer()
                assert (answer.status, answer.headers["connection"]) == (503, "close")
                assert answer.error()["code"] == "server_is_overloaded"
                assert answer.headers["retry-after"]
                assert await third.rest() == b""
            while not engine.is_idle:
                engine.step()
            for connection in (first, second):
                assert (await connection.answer()).status == 200
        async with connect(client) as fourth:
            await is_served(fourth)


async def test_who_leaves_in_the_middle_makes_room() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_connections=1)) as client:
        for number in (1, 2):
            async with connect(client) as connection:
                connection.send(completion())
                await engine.until(lambda number=number: len(engine.requests) == number)
            await engine.until(lambda number=number: len(engine.aborts) == number)


async def test_requests_that_do_not_come_give_way() -> None:
    """Else a few thousand half requests would keep everybody else away, for as long as they may."""
    head, _, body = completion().partition(b"\r\n\r\n")
    async with (
        live_app(FakeEngine(), Settings(max_connections=2)) as client,
        connect(client) as first,
        connect(client) as second,
    ):
        for connection in (first, second):
            connection.send(head + b"\r\nExpect: 100-continue\r\n\r\n" + body[:-1])
            assert (await connection.head()).startswith("HTTP/1.1 100 ")  # it is waited for
        async with connect(client) as third:
            await is_served(third)
            answer = await first.answer()
            assert (answer.status, answer.error()["code"]) == (503, "server_is_overloaded")
            assert await first.rest() == b""
            second.send(body[-1:])
            assert (await second.answer()).status == 200


async def test_who_was_refused_gives_way_too() -> None:
    """It is waited for a while to read why; not while others find no room."""
    async with (
        live_app(FakeEngine(), Settings(max_connections=2)) as client,
        connect(client) as first,
        connect(client) as second,
    ):
        for connection in (first, second):
            connection.send(b"garbage\r\n\r\n")
            assert (await connection.answer()).status == 400
        async with connect(client) as third:
            await is_served(third)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_idle_connections() -> None:
    """More than there may be: the longest idle ones give way, and everybody else is served."""
    num_connections = 10_000
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files < num_connections + MAX_CONNECTIONS + 200:
        pytest.skip("both ends of so many connections need more descriptors than there may be")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    async with live_app(FakeEngine()) as client, AsyncExitStack() as stack:
        address = (client.base_url.host, client.base_url.port)
        for number in range(num_connections):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
            if number % 1000 == 999:
                assert (await client.get("/health")).status_code == 200
                assert (await client.post(URL, json=BODY)).status_code == 200
        async with connect(client) as last:
            await is_served(last)


def test_no_more_than_files_may_be_open() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 64))\n"
        "from server.connections import affordable_connections as affordable\n"
        "print(affordable(10), affordable(4096), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"10 {64 - RESERVED_FILES} (64, 64)"


@pytest.mark.parametrize(("stall_timeout", "milliseconds"), [(0.75, 1500), (1e9, 2**31 - 1)])
async def test_the_system_looks_for_clients_that_are_gone(
    stall_timeout: float, milliseconds: int
) -> None:
    servers: list[HttpServer] = []
    app = Response(b"x")
    async with (
        serving(app, 30, servers.append, stall_timeout=stall_timeout) as client,
        connect(client) as connection,
    ):
        await is_served(connection)
        [protocol] = servers[0].server_state.connections
        sock = protocol.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if sys.platform == "linux":
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            options = [getattr(socket, name) for name in names]
            found = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            assert found == [30, 10, 3, milliseconds]


# Readers that stop.


def unread(client: httpx.AsyncClient, buffer_size: int = 4096) -> socket.socket:
    """A connection of which nothing is read, with a small buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
    sock.connect((client.base_url.host, client.base_url.port))
    return sock


async def test_a_reader_that_stops_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(lambda request, index: b"x" * 4000)
    body = {"stream": True, "n": 100, "max_tokens": 4000}
    with caplog.at_level(logging.INFO, "server"):
        async with live_app(engine, Settings(stream_stall_timeout=0.5)) as client:
            with unread(client) as sock:
                sock.sendall(completion(**body))
                await engine.until(lambda: not engine.is_idle)
                # A neighbour is served meanwhile.
                assert (await client.post(URL, json=BODY)).status_code == 200
                await engine.until(lambda: bool(engine.aborts))
            await engine.until(lambda: engine.is_idle)
    assert "cut off" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_slow_reader_is_not(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(lambda request, index: b"x" * 200)
    body = {"stream": True, "n": 20, "max_tokens": 200}
    async with (
        live_app(engine, Settings(stream_stall_timeout=5)) as client,
        client.stream("POST", URL, json=BODY | body) as response,
    ):
        text = b""
        async for piece in response.aiter_bytes():
            text += piece
            await asyncio.sleep(0.001)
    assert text.endswith(b"data: [DONE]\n\n")
    assert engine.aborts == []


async def test_what_a_reader_leaves_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before it is cut off nothing more is computed for it. It may still read what was."""
    monkeypatch.setattr("engine.client.MAX_UNREAD_BYTES", 2**20)
    engine = FakeEngine(lambda request, index: b"abcdefghij" * 10_000)
    engine.info = replace(engine.info, max_model_len=200_000, num_blocks=20_000)
    body = {"stream": True, "max_tokens": 100_000, "logprobs": 20}
    async with live_app(engine) as client:
        with unread(client) as sock:
            sock.sendall(completion("1.0", **body))
            async with asyncio.timeout(60):
                await engine.until(lambda: bool(engine.aborts))
            assert engine.is_idle
            sock.setblocking(False)
            answer = b""
            while piece := await asyncio.get_running_loop().sock_recv(sock, 2**20):
                answer += piece
    *events, error, done, nothing = answer.partition(b"\r\n\r\n")[2].split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "reader_too_slow"
    texts = [json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in events]
    text = "".join(texts)
    assert len(text) > 2**20 // 1710
    assert text == ("abcdefghij" * 10_000)[: len(text)]


async def large_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with more than the system's buffers hold, at once."""
    headers = [(b"content-length", str(LARGE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * LARGE})


async def test_a_slow_reader_of_a_large_answer_is_not_cut_off() -> None:
    """However long it takes altogether; nor when it has read all and is silent for a while."""
    async with serving(large_answer, 30, stall_timeout=0.4) as client:
        with unread(client, 2**19) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, GET)
            async with asyncio.timeout(30):
                beginning = await loop.sock_recv(sock, 2**19)
                num_left = beginning.index(b"\r\n\r\n") + 4 + LARGE - len(beginning)
                while num_left and (piece := await loop.sock_recv(sock, 2**19)):
                    num_left -= len(piece)
                    await asyncio.sleep(len(piece) / LARGE)  # a second for all of it
                assert num_left == 0
                await asyncio.sleep(1)
                await loop.sock_sendall(sock, GET)
                assert (await loop.sock_recv(sock, 2**19)).startswith(b"HTTP/1.1 200 ")


async def test_a_reader_of_drops_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server"):
        async with serving(large_answer, 30, stall_timeout=0.2) as client:
            with unread(client) as sock:
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, GET)
                async with asyncio.timeout(30):
                    while "cut off" not in caplog.text:
                        await loop.sock_recv(sock, 512)
                        await asyncio.sleep(0.02)


class Reader:
    """A connection whose client leaves so much unread."""

    is_idle = is_receiving = False

    def __init__(self, num_unread_bytes: int) -> None:
        self.num_unread_bytes = num_unread_bytes
        self.is_cut_off = False

    def give_way(self) -> None:
        raise AssertionError("it is neither idle nor receiving")

    def cut_off(self, why: str) -> None:
        self.is_cut_off = True


def test_answers_that_are_not_read_are_bounded_together() -> None:
    connections = Connections(9, max_unread_bytes=100)
    readers = [Reader(size) for size in (40, 10, 30, 20, 25, 10)]
    for reader in readers[:4]:
        connections.stopped_reading(reader)
    assert not any(reader.is_cut_off for reader in readers)
    readers[0].num_unread_bytes = 25  # it has read some
    connections.reads_again(readers[1])
    connections.stopped_reading(readers[4])
    assert not any(reader.is_cut_off for reader in readers)
    connections.stopped_reading(readers[5])
    assert [reader.is_cut_off for reader in readers] == [False, False, True, False, False, False]
    large = Reader(1000)
    connections.stopped_reading(large)
    assert [reader.is_cut_off for reader in readers] == [True, False, *[True] * 4]
    assert not large.is_cut_off, "one answer may be as large as it likes"


async def test_the_server_looks_at_all_answers_that_are_not_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One may be as large as it likes; the second one is too much."""
    few = partial(Connections, max_unread_bytes=LARGE + LARGE // 4)
    monkeypatch.setattr("server.http_server.Connections", few)
    with caplog.at_level(logging.INFO, "server"):
        async with serving(large_answer, 30) as client:
            with unread(client) as first, unread(client) as second:
                for sock in (first, second):
                    sock.sendall(GET)
                async with asyncio.timeout(30):
                    while "too many answers" not in caplog.text:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
    assert caplog.text.count("cut off") == 1


# HTTP/1.0.


async def test_a_stream_for_http_1_0_ends_with_the_connection() -> None:
    async with live_app(FakeEngine()) as client:
        async with connect(client) as connection:
            connection.send(completion("1.1", stream=True))
            connection.send(b"garbage\r\n\r\n")
            modern = (await connection.answer()).body
        assert b"\r\n0\r\n\r\n" in modern
        async with connect(client) as connection:
            connection.send(completion("1.0", stream=True))
            answer = await connection.answer()
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    *events, done, nothing = answer.body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    texts = [json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in events]
    assert "".join(texts) == " a"


async def test_what_has_a_length_keeps_it_in_http_1_0() -> None:
    async with live_app(FakeEngine()) as client:
        for request, status in ((completion("1.0"), 200), (completion("1.0", n=0), 400)):
            async with connect(client) as connection:
                connection.send(request)
                answer = await connection.answer()
                assert answer.status == status
                assert answer.headers["content-length"] == str(len(answer.body))
                assert await connection.rest() == b""
