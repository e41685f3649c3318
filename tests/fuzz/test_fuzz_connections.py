"""Any bytes on a connection: answered or refused, never with a 5xx, and the server lives on."""

from __future__ import annotations

import asyncio
import random
import re

import pytest
from fake_engine import FakeEngine
from live_app import live_app
from raw_http import connect

BODY = b'{"model": "fake-model", "prompt": "x", "max_tokens": 2, "stream": true}'
REQUESTS = [
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    b"GET /v1/models/x%2fy?a=b HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nX-Request-Id: a\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain; version=x\r\n\r\n",
]
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b" ", b"\t", b":", b"%00", b"%", b"../", b"//"),
    *(b"HTTP/9.9", b"HTTP/1.0", b"Content-Length: -1\r\n", b"Content-Length: 5\r\n", b"\x16\x03"),
    *(b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n", b"Expect: 100-continue\r\n", b"\x0b"),
    *(b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Connection: close\r\n", b"FFFFFFFFFF"),
    *(b"traceparent: 00-x-y-z\r\n", b"GET / HTTP/1.1\r\n\r\n", b"X" * 5000, b'"', b"{", b"1e400"),
]
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def damaged(rng: random.Random) -> bytes:
    """One or several requests in a row, with something wrong here and there."""
    data = bytearray(b"".join(rng.choices(REQUESTS, k=rng.randint(1, 3))))
    for _ in range(rng.randint(1, 5)):
        position = rng.randrange(len(data) + 1)
        kind = rng.random()
        if kind < 0.6:
            data[position : position + rng.randrange(3)] = rng.choice(PIECES)
        elif kind < 0.8:
            data[position : position + 1] = bytes([rng.randrange(256)])
        else:
            del data[position : position + rng.randrange(20)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
async def test_damaged_requests(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    engine = FakeEngine(lambda request, index: list(b"ok"))
    num_answers = 0
    async with live_app(engine, receive_deadline=0.3) as client:
        for _ in range(15):
            answers = await asyncio.gather(*(exchange(client, rng) for _ in range(10)))
            for data, answer in answers:
                statuses = [int(status) for status in STATUS.findall(answer)]
                assert all(status < 500 for status in statuses), (data, answer)
                num_answers += len(statuses)
        assert (await client.get("/health")).status_code == 200
        await engine.until(lambda: engine.is_idle)
    assert num_answers > 50
    assert "Traceback" not in caplog.text


async def exchange(client: object, rng: random.Random) -> tuple[bytes, bytes]:
    """What was sent, in pieces, and all that came back until the server closed."""
    data = damaged(rng)
    cut = rng.randrange(len(data) + 1)
    async with connect(client) as connection:  # type: ignore[arg-type]
        connection.send(data[:cut])
        await asyncio.sleep(0)
        connection.send(data[cut:])
        # Whatever the server waits for does not come, but the deadline does.
        connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return data, await connection.rest()
