"""The memory of all bodies together, held by connections that send them slowly."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app
from pydantic import ByteSize, ValidationError
from raw_http import Connection, connect

from server.bodies import Bodies, HeldBody
from server.settings import Settings
from server.wire.errors import ApiError
from server.wire.limits import FREE_BODY_BYTES, MAX_BODY_BYTES

MIB = 1024 * 1024
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 2}).encode()
SMALL = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def large(framing: str, num_bytes: int, body: bytes = BODY) -> tuple[bytes, bytes]:
    """A good request with a body of so many bytes, all but its end, and its end."""
    spaces = b" " * (num_bytes - len(body))
    if framing == "chunked":
        chunk = b"%x\r\n%s\r\n" % (len(spaces), spaces)
        end = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, end
    return HEAD + b"Content-Length: %d\r\n\r\n%s" % (num_bytes, spaces), body


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(max_body_memory=ByteSize(MAX_BODY_BYTES))
    async with live_app(FakeEngine(), settings) as client:
        yield client


async def is_refused(connection: Connection) -> bool:
    """Whether it is told to come again, and its connection closed."""
    answer = await connection.answer()
    error = answer.error()
    assert (answer.status, error["code"]) == (503, "server_is_overloaded")
    assert error["type"] == "service_unavailable_error"
    assert answer.headers["retry-after"]
    assert answer.headers["x-should-retry"] == "true"
    assert answer.headers["connection"] == "close"
    return await connection.rest() == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_half_sent_bodies_are_bounded_together(
    client: httpx.AsyncClient, framing: str
) -> None:
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(client)) for _ in range(3)]
        first, second, third = connections
        begun, end = large(framing, 3 * MIB)
        await first.send_all(begun)
        refusal = asyncio.create_task(is_refused(second))
        await second.send_all(begun)
        assert await refusal
        # Requests of the usual size are served beside it, and so is one that is a little larger.
        for request in (SMALL, b"".join(large(framing, FREE_BODY_BYTES + 1000))):
            third.send(request)
            assert (await third.answer()).status == 200
        first.send(end)
        assert (await first.answer()).status == 200
        await third.send_all(begun + end)  # there is room again
        assert (await third.answer()).status == 200


async def test_bodies_of_clients_that_left_make_room(client: httpx.AsyncClient) -> None:
    begun, end = large("length", 4 * MIB)
    for _ in range(4):
        async with connect(client) as leaving:
            await leaving.send_all(begun)
    async with asyncio.timeout(30):
        status = 503
        while status == 503:  # until the server has seen that they left
            async with connect(client) as connection:
                await connection.send_all(begun + end)
                status = (await connection.answer()).status
    assert status == 200


async def test_refused_bodies_make_room(client: httpx.AsyncClient) -> None:
    """Whatever they are refused for."""
    for body, status in (
        (b"{" + b" " * 3 * MIB, 400),
        (b" " * (MAX_BODY_BYTES + 1), 413),
        (json.dumps({"model": "other", "prompt": "x" * 3 * MIB}).encode(), 404),
        (json.dumps({"model": MODEL, "prompt": "x" * 3 * MIB}).encode(), 400),
    ):
        for _ in range(3):
            headers = {"Content-Type": "application/json"}
            response = await client.post("/v1/completions", content=body, headers=headers)
            assert response.status_code == status


async def test_a_body_that_waits_for_its_turn_still_counts() -> None:
    """What was read of it lives on as a prompt, until its answer begins."""
    engine = FakeEngine(manual=True)
    settings = Settings(max_body_memory=ByteSize(MAX_BODY_BYTES))
    async with live_app(engine, settings) as client, connect(client) as first:
        await first.send_all(b"".join(large("length", 3 * MIB)))
        await engine.until(lambda: bool(engine.requests))
        async with connect(client) as second:
            refusal = asyncio.create_task(is_refused(second))
            await second.send_all(large("length", 3 * MIB)[0])
            assert await refusal
        while not engine.is_idle:
            engine.step()
        assert (await first.answer()).status == 200


async def test_a_body_counts_no_more_when_its_answer_has_begun() -> None:
    engine = FakeEngine(manual=True)
    settings = Settings(max_body_memory=ByteSize(MAX_BODY_BYTES))
    body = json.dumps(json.loads(BODY) | {"stream": True}).encode()
    async with (
        live_app(engine, settings) as client,
        connect(client) as first,
        connect(client) as second,
    ):
        for number, connection in enumerate((first, second), 1):
            await connection.send_all(b"".join(large("length", 3 * MIB, body)))
            await engine.until(lambda number=number: len(engine.requests) == number)
            engine.step()
            assert (await connection.head()).startswith("HTTP/1.1 200 ")
        engine.step()


async def test_what_is_taken_is_given_back() -> None:
    bodies = Bodies(1000)
    messages = [b"x" * FREE_BODY_BYTES, b"x" * 600, b"x" * 400, b"x"]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": messages.pop(0), "more_body": True}

    body = HeldBody(bodies, receive)
    for num_bytes in (0, 600, 1000):
        await body.receive()
        assert bodies.num_bytes == num_bytes
    with pytest.raises(ApiError):
        await body.receive()
    assert bodies.num_bytes == 1000
    for _ in range(2):
        body.release()
        assert bodies.num_bytes == 0


def test_one_body_has_room_at_least() -> None:
    with pytest.raises(ValidationError):
        Settings(max_body_memory=ByteSize(MAX_BODY_BYTES - 1))


async def test_a_long_prompt_that_was_cut_is_not_kept() -> None:
    """Nor a long list of tokens, while the request waits for the engine."""
    engine = FakeEngine(manual=True)
    prompt, allowed = b",".join([b"7"] * 123_457), b",".join([b"7"] * 123_459)
    body = b'{"model":"%s","prompt":[%s],"allowed_token_ids":[%s],"truncate_prompt_tokens":4,'
    body = body % (MODEL.encode(), prompt, allowed) + b'"max_tokens":1}'
    headers = {"Content-Type": "application/json"}
    async with live_app(engine) as client:
        asking = asyncio.create_task(client.post("/v1/completions", content=body, headers=headers))
        await engine.until(lambda: bool(engine.requests))
        lengths = {len(thing) for thing in gc.get_objects() if type(thing) is list}
        assert not lengths & {123_457, 123_459}
        engine.step()
        assert (await asking).status_code == 200
    assert engine.requests[0].prompt_token_ids == [7] * 4
    assert engine.requests[0].sampling.allowed_token_ids == (7,)
