"""The wire itself: what never ends, what comes too late, and several requests at once.

What is refused at once are rows of `hostile_rows.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from fake_engine import FakeEngine
from live_app import MODEL, live_app, serving
from raw_http import Answer, Connection, connect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.wire.limits import MAX_BODY_BYTES, MAX_PIPELINED

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
NOWHERE = b"POST /nothing HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
MIB = 1024 * 1024


def completion(**fields: object) -> bytes:
    body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 2} | fields).encode()
    return POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(FakeEngine()) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty() -> AsyncIterator[httpx.AsyncClient]:
    """A server whose deadline for receiving a request is short."""
    async with live_app(FakeEngine(), receive_deadline=0.3) as client:
        yield client


async def is_refused(connection: Connection, status: int) -> Answer:
    """The one answer, after which the connection is closed."""
    answer = await connection.answer()
    assert answer.status == status, answer.body
    assert answer.error()["type"] == "invalid_request_error"
    assert answer.headers["connection"] == "close"
    assert await connection.rest() == b""
    return answer


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        (GET + b"A: ", b"a" * 16384, 431),
        (GET, b"a" * 16384, 431),
        (GET, b"A: b\r\n", 431),
        (b"GET /", b"a" * 1024, 414),
        (b"", b"\r\n" * 8192, 431),
        (POST + CHUNKED + b"\r\n1;", b"a" * 16384, 431),
    ],
    ids=["header value", "header name", "headers", "URL", "empty lines", "chunk extension"],
)
async def test_what_never_ends(
    client: httpx.AsyncClient, start: bytes, piece: bytes, status: int
) -> None:
    async with connect(client) as connection:
        connection.send(start)
        refusal = asyncio.ensure_future(is_refused(connection, status))
        assert await connection.send_until(refusal, piece, at_most=64 * MIB) < 64 * MIB


async def test_what_is_within_the_limits(client: httpx.AsyncClient) -> None:
    async with connect(client) as connection:
        connection.send(GET + b"A: b\r\n" * 99 + END)
        connection.send(GET + b"A: %s\r\n\r\n" % (b"a" * 32_000))
        connection.send(b"GET /health?%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 8000))
        connection.send(b"GET /health HTTP/1.1\r\nHost: [::1]:8000 \r\n\r\n")
        for _ in range(4):
            assert (await connection.answer()).status == 200
        connection.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await connection.answer()).status == 200


async def test_an_upgrade_is_an_ordinary_request(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with connect(client) as connection:
        connection.send((GET + upgrade) * 2 + GET + END)
        for _ in range(3):
            assert (await connection.answer()).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n\r\n%b", CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_the_body_of_an_upgrade_is_not_the_next_request(
    client: httpx.AsyncClient, framing: bytes, size: int
) -> None:
    """What hides in it would get past a proxy, which takes it for a body."""
    hidden = GET + END
    start = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    data = (start + framing % (len(hidden), hidden)) * 2 + GET + END
    async with connect(client) as connection:
        for begin in range(0, len(data), size):
            connection.send(data[begin : begin + size])
            await asyncio.sleep(0)
        for status in (400, 400, 200):
            assert (await connection.answer()).status == status


@pytest.mark.parametrize(
    ("version", "connection"), [(b"1.0", b"Upgrade"), (b"1.1", b"close, Upgrade")]
)
async def test_an_upgrade_may_close(
    client: httpx.AsyncClient, version: bytes, connection: bytes
) -> None:
    start = POST.replace(b"1.1", version) + b"Connection: %s\r\nUpgrade: h2c\r\n" % connection
    async with connect(client) as raw:
        raw.send(start + b"Content-Length: 2\r\n\r\n[]" + GET + END)
        await is_refused(raw, 400)


# Deadlines.


@pytest.mark.parametrize("start", [GET, GET + b"A: ", b"\r\n", b"G"])
async def test_a_head_that_does_not_end(hasty: httpx.AsyncClient, start: bytes) -> None:
    async with connect(hasty) as connection:
        connection.send(start)
        answer = await is_refused(connection, 408)
        assert answer.error()["code"] == "request_timeout"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (GET, b"A: b\r\n"),
        (POST + b"Content-Length: 100000\r\n\r\n", b" "),
        (POST + CHUNKED + END, b"1\r\n \r\n"),
    ],
    ids=["head", "body", "chunked body"],
)
async def test_the_deadline_is_absolute(
    hasty: httpx.AsyncClient, start: bytes, piece: bytes
) -> None:
    async with connect(hasty) as connection:
        connection.send(start)
        refusal = asyncio.ensure_future(is_refused(connection, 408))
        while not refusal.done():
            connection.send(piece)
            await asyncio.wait([refusal], timeout=0.02)
        await refusal


async def test_a_connection_that_says_nothing(hasty: httpx.AsyncClient) -> None:
    async with connect(hasty) as connection:
        assert await connection.rest() == b""


async def test_a_body_that_nobody_reads_has_a_deadline(hasty: httpx.AsyncClient) -> None:
    async with connect(hasty) as connection:
        connection.send(NOWHERE + b"Content-Length: 10\r\n\r\n")
        assert (await connection.answer()).status == 404
        assert await connection.rest() == b""  # one request, one answer


async def test_deadlines_end_with_the_request() -> None:
    engine = FakeEngine(manual=True)
    async with (
        live_app(engine, receive_deadline=1.0) as client,
        connect(client) as idle,
        connect(client) as unread,
        connect(client) as busy,
    ):
        idle.send(GET + END)
        assert (await idle.answer()).status == 200
        unread.send(NOWHERE + b"Content-Length: 10\r\n\r\n")
        assert (await unread.answer()).status == 404
        unread.send(b"0123456789")
        busy.send(completion(max_tokens=1))
        await engine.until(lambda: not engine.is_idle)
        busy.send(completion(max_tokens=1)[:-1])  # not read before its turn
        async with connect(client) as silent:
            await silent.rest()  # a deadline later
        for connection in (idle, unread):
            connection.send(GET + END)
            assert (await connection.answer()).status == 200
        engine.step()
        assert (await busy.answer()).status == 200
        busy.send(b"}")
        await engine.until(lambda: not engine.is_idle)
        engine.step()
        assert (await busy.answer()).status == 200


# Bodies that nobody asked for.


async def test_a_connection_outlives_a_body_that_nobody_read(client: httpx.AsyncClient) -> None:
    body = b"x" * 300_000
    async with connect(client) as connection:
        for start in (NOWHERE, GET):
            connection.send(start + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            await connection.answer()
        connection.send(GET + END)
        assert (await connection.answer()).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000\r\n\r\n", CHUNKED + END])
async def test_an_endless_body_that_nobody_reads(hasty: httpx.AsyncClient, framing: bytes) -> None:
    piece = b"x" * 8192
    if framing.startswith(CHUNKED):
        piece = b"2000\r\n%s\r\n" % piece
    async with connect(hasty) as connection:
        connection.send(NOWHERE + framing)
        assert (await connection.answer()).status == 404
        ending = asyncio.ensure_future(connection.rest())
        while not ending.done():
            connection.send(piece)
            await asyncio.wait([ending], timeout=0.01)
        assert ending.result() == b""


async def test_who_sends_too_much_is_told(client: httpx.AsyncClient) -> None:
    body = b" " * (MAX_BODY_BYTES + MIB)
    for framing, data in (
        (b"Content-Length: %d\r\n\r\n" % len(body), body),
        (CHUNKED + END, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)),
    ):
        async with connect(client) as connection:
            connection.send(POST + framing + data)
            answer = await is_refused(connection, 413)
            assert answer.error()["code"] == "request_too_large"


async def test_a_refused_client_may_go_on_sending(client: httpx.AsyncClient) -> None:
    """Else its connection would be reset, and it might never see the answer."""
    for framing in (b"Content-Length: 100000000\r\n\r\n", b"A: " + b"a" * 40_000 + END + END):
        async with connect(client) as connection:
            connection.send(POST + framing)
            await connection.answer()
            assert await connection.rest() == b""  # the end of what the server has to say
            await connection.send_all(b"x" * 16 * MIB)


async def test_trailers_are_no_headers() -> None:
    async def names_headers(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        names = b" ".join(name for name, _ in scope["headers"])
        await Response(names)(scope, receive, send)

    async with serving(names_headers, 30.0) as client, connect(client) as connection:
        connection.send(POST + CHUNKED + b"\r\n0\r\nAuthorization: x\r\n\r\n")
        answer = await connection.answer()
        assert answer.body == b"host content-type transfer-encoding"


async def test_a_trailer_may_close(client: httpx.AsyncClient) -> None:
    """The parser would pass over all that follows it, and nobody would ever be answered."""
    async with connect(client) as connection:
        connection.send(POST + CHUNKED + b"\r\n0\r\nConnection: close\r\n\r\n" + GET + END)
        await is_refused(connection, 400)


async def test_an_answer_instead_of_a_100_closes(client: httpx.AsyncClient) -> None:
    async with connect(client) as connection:
        connection.send(NOWHERE + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert await connection.rest() == b""


# Several requests on one connection.


async def test_what_is_bad_does_not_disturb_the_answer_to_what_was_good() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client, connect(client) as connection:
        connection.send(completion(max_tokens=1))
        await engine.until(lambda: not engine.is_idle)
        connection.send(GET + END + b"garbage\r\n\r\n")
        async with connect(client) as other:  # its answer comes after the garbage was read
            other.send(GET + END)
            await other.answer()
        engine.step()
        for _ in range(2):
            assert (await connection.answer()).status == 200
        assert await connection.rest() == b""


async def test_a_bad_body_after_its_answer_closes(client: httpx.AsyncClient) -> None:
    async with connect(client) as connection:
        connection.send(NOWHERE + CHUNKED + END)
        assert (await connection.answer()).status == 404
        connection.send(b"zz\r\n")
        assert await connection.rest() == b""


async def test_only_so_many_requests_wait_for_their_turn() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client, connect(client) as connection:
        connection.send(completion(max_tokens=1))
        await engine.until(lambda: not engine.is_idle)
        connection.send((GET + END) * 2 * MAX_PIPELINED)
        async with connect(client) as other:
            other.send(GET + END)
            await other.answer()
        engine.step()
        for _ in range(1 + MAX_PIPELINED):
            assert (await connection.answer()).status == 200
        assert await connection.rest() == b""


async def test_a_client_that_leaves_with_requests_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Noticed when something is written: nothing is read while requests wait for their turn."""
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        async with connect(client) as connection:
            connection.send(completion(max_tokens=99, stream=True))
            await engine.until(lambda: not engine.is_idle)
            connection.send(completion(max_tokens=99, stream=True))
            await asyncio.sleep(0.05)
        for _ in range(20):
            engine.step()
            await asyncio.sleep(0.01)
        assert engine.aborts
        assert len(engine.requests) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
