"""What is answered in each state: ready, no engine, draining, and at the end of the patience."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, new_app, serving
from raw_http import connect

from server.http_server import HttpServer
from server.request_queue import RequestQueue

URL = "/v1/completions"
BODY: dict[str, Any] = {"model": MODEL, "prompt": "p", "max_tokens": 2}


async def health(client: httpx.AsyncClient) -> dict[str, int]:
    """The status of each question; HEAD says the same without a body."""
    found = {}
    for path in ("/health", "/readyz", "/livez", "/ping"):
        response = await client.get(path)
        head = await client.head(path)
        assert (head.status_code, head.content) == (response.status_code, b"")
        found[path] = response.status_code
        if response.status_code != 200:
            assert response.headers["retry-after"]
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return found


READY = {"/health": 200, "/readyz": 200, "/livez": 200, "/ping": 200}
ONLY_ALIVE = {"/health": 503, "/readyz": 503, "/livez": 200, "/ping": 503}


class Stopping:
    """A server whose end has begun, with a client whose connections are open already."""

    def __init__(self, engine: FakeEngine, drain_timeout: float) -> None:
        self.engine = engine
        self.app = new_app(engine)
        self.queue: RequestQueue = self.app.state.services.queue
        self.drain_timeout = drain_timeout
        self.http: list[HttpServer] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Stopping:
        options = {"requests": self.queue, "drain_timeout": self.drain_timeout}
        serve = serving(self.app, 30.0, self.http.append, **options)
        self.client = await self._stack.enter_async_context(serve)
        return self

    def stop(self) -> asyncio.Task[None]:
        """Is done when the server has ended."""
        return asyncio.create_task(self._stack.aclose())

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()


async def test_each_state() -> None:
    engine = FakeEngine()
    async with Stopping(engine, 30.0) as server:
        assert await health(server.client) == READY
        engine.is_ready = False
        assert await health(server.client) == ONLY_ALIVE
        engine.is_ready = True
        server.queue.start_draining()
        assert await health(server.client) == ONLY_ALIVE
        response = await server.client.post(URL, json=BODY)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
        assert response.headers["x-should-retry"] == "true"
        assert (await server.client.get("/v1/models")).status_code == 200


async def test_what_runs_is_finished_while_newcomers_are_refused() -> None:
    engine = FakeEngine(manual=True)
    async with Stopping(engine, 60.0) as server:
        url = server.client.base_url
        async with httpx.AsyncClient(base_url=url, timeout=60) as other:
            posts = [
                asyncio.create_task(other.post(URL, json=BODY | {"stream": stream}))
                for stream in (False, True)
            ]
            await engine.until(lambda: len(engine.requests) == 2)
            end = server.stop()
            async with asyncio.timeout(20):
                while not server.queue.is_draining:  # noqa: ASYNC110 - as a signal would set it
                    await asyncio.sleep(0.01)
            response = await other.post(URL, json=BODY)
            assert (response.status_code, response.json()["error"]["code"]) == (
                503,
                "shutting_down",
            )
            assert (await other.get("/readyz")).status_code == 503
            while not engine.is_idle:
                engine.step()
            for post in posts:
                response = await post
                assert response.status_code == 200
                assert "error" not in response.text
            await asyncio.wait_for(end, 30)


async def test_what_is_not_finished_in_time_is_told() -> None:
    engine = FakeEngine(manual=True)
    async with Stopping(engine, 0.3) as server:
        url = server.client.base_url
        async with httpx.AsyncClient(base_url=url, timeout=60) as other:
            stream = asyncio.create_task(other.post(URL, json=BODY | {"stream": True}))
            await engine.until(lambda: len(engine.requests) == 1)
            engine.step()
            plain = asyncio.create_task(other.post(URL, json=BODY))
            await engine.until(lambda: len(engine.requests) == 2)
            end = server.stop()
            response = await plain
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "shutting_down"
            text, error, done, _ = (await stream).text.split("\n\n")
            assert text.startswith('data: {"id"')
            assert '"code":"shutting_down"' in error
            assert done == "data: [DONE]"
            await asyncio.wait_for(end, 30)
    assert engine.is_idle


async def test_a_second_signal_tells_everybody(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and nobody is cut off without a word: a stream, an answer, a body on its way."""
    engine = FakeEngine(manual=True)
    async with Stopping(engine, 60.0) as server, connect(server.client) as half_sent:
        url = server.client.base_url
        async with httpx.AsyncClient(base_url=url, timeout=60) as other:
            stream = asyncio.create_task(other.post(URL, json=BODY | {"stream": True}))
            await engine.until(lambda: len(engine.requests) == 1)
            engine.step()
            plain = asyncio.create_task(other.post(URL, json=BODY))
            await engine.until(lambda: len(engine.requests) == 2)
            half_sent.send(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert (await server.client.get("/livez")).status_code == 200
            begun = asyncio.get_running_loop().time()
            for _ in range(2):
                server.http[0].handle_exit(signal.SIGTERM, None)
            response = await plain
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "shutting_down"
            text, error, done, _ = (await stream).text.split("\n\n")
            assert text.startswith('data: {"id"')
            assert '"code":"shutting_down"' in error
            assert done == "data: [DONE]"
            answer = await half_sent.answer()
            assert (answer.status, answer.error()["code"]) == (503, "shutting_down")
            await asyncio.wait_for(server.stop(), 30)
            assert asyncio.get_running_loop().time() - begun < 10
    assert engine.is_idle
    assert "Traceback" not in caplog.text


async def test_what_hangs_is_answered_in_json(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn cancels what is left over, of which it would write a traceback and plain text."""
    engine = FakeEngine()
    async with Stopping(engine, 0.0) as server:
        services = server.app.state.services

        async def never(tenant: object, work: object) -> None:
            await asyncio.Event().wait()

        services.workers.run = never
        body = b'{"prompt": "%s"}' % (b"x" * 20_000)
        async with connect(server.client) as connection, connect(server.client) as half_sent:
            half_sent.send(
                b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"
            )
            connection.send(
                b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert (await server.client.get("/livez")).status_code == 200
            end = server.stop()
            for waiting in (connection, half_sent):
                answer = await waiting.answer()
                assert answer.status == 503
                assert answer.error()["code"] == "shutting_down"
            await asyncio.wait_for(end, 30)
    assert "Traceback" not in caplog.text
