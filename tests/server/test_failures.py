"""Clients that go away and engines that die: who is told, and what is freed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from engine import Failure
from server.settings import Settings

URL = "/v1/completions"
BODY = {"model": MODEL, "prompt": "p", "max_tokens": 1000}

NOT_FINITE = Failure("numerical_error", "The model's numbers are not finite for this prompt.")
NOT_FINITE_ERROR = {
    "message": NOT_FINITE.message,
    "type": "server_error",
    "param": None,
    "code": "numerical_error",
}


def error_of(text: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def leave(engine: FakeEngine, post: asyncio.Task[httpx.Response]) -> None:
    """Drop the connection of a request that the engine has, and see the engine freed."""
    await engine.until(lambda: not engine.is_idle)
    post.cancel()
    await asyncio.gather(post, return_exceptions=True)
    await engine.until(lambda: engine.is_idle)
    assert engine.aborts == [(engine.requests[0].request_id, None)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token(stream: bool) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        body = BODY | {"stream": stream}
        await leave(engine, asyncio.create_task(client.post(URL, json=body)))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_the_middle(stream: bool) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        body = BODY | {"stream": stream}
        post = asyncio.create_task(client.post(URL, json=body))
        await engine.until(lambda: not engine.is_idle)
        engine.step()
        await leave(engine, post)


async def test_all_prompts_of_a_client_that_leaves_are_ended() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        body = BODY | {"prompt": ["a", "b"], "stream": True}
        request = client.build_request("POST", URL, json=body)
        sending = asyncio.create_task(client.send(request, stream=True))
        await engine.until(lambda: not engine.is_idle)
        engine.step()
        response = await sending
        await response.aclose()
        await engine.until(lambda: engine.is_idle)
        assert sorted(engine.aborts) == sorted((r.request_id, None) for r in engine.requests)


async def test_a_finished_request_is_not_aborted() -> None:
    engine = FakeEngine()
    async with live_app(engine) as client:
        for stream in (False, True):
            body = BODY | {"max_tokens": 3, "stream": stream}
            assert (await client.post(URL, json=body)).status_code == 200
    assert engine.aborts == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_dies_before_the_first_token(stream: bool) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        post = asyncio.create_task(client.post(URL, json=BODY | {"stream": stream}))
        await engine.until(lambda: not engine.is_idle)
        engine.die()
        response = await post
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert error_of(response.text)["type"] == "service_unavailable_error"


async def test_an_engine_that_dies_in_the_middle_of_an_answer() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        post = asyncio.create_task(client.post(URL, json=BODY))
        await engine.until(lambda: not engine.is_idle)
        engine.step()
        engine.die()
        assert (await post).status_code == 503


async def test_an_engine_that_dies_in_the_middle_of_streams() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        options = {"include_usage": True}
        body = BODY | {"stream": True, "stream_options": options}
        posts = [asyncio.create_task(client.post(URL, json=body)) for _ in range(4)]
        await engine.until(lambda: len(engine.requests) == 4)
        engine.step()
        engine.die()
        for post in posts:
            response = await post
            assert response.status_code == 200
            text, error, done, nothing = response.text.split("\n\n")
            assert json.loads(text.removeprefix("data: "))["choices"][0]["text"] == " "
            kind = error_of(error.removeprefix("data: "))["type"]
            assert kind == "service_unavailable_error"
            assert (done, nothing) == ("data: [DONE]", "")


async def test_one_failing_request_fails_alone() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        posts = [
            asyncio.create_task(client.post(URL, json=BODY | {"prompt": p, "max_tokens": 2}))
            for p in ("a", "b")
        ]
        await engine.until(lambda: len(engine.requests) == 2)
        bad = next(r for r in engine.requests if r.prompt_token_ids[-1] == ord("a"))
        engine.fail(bad, NOT_FINITE)
        engine.step()
        engine.step()
        failed, fine = [await post for post in posts]
        assert failed.status_code == 500
        assert error_of(failed.text) == NOT_FINITE_ERROR
        assert failed.headers["x-should-retry"] == "false"
        assert fine.status_code == 200


async def test_a_stream_that_fails_before_its_first_byte_has_a_status() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        post = asyncio.create_task(client.post(URL, json=BODY | {"stream": True}))
        await engine.until(lambda: len(engine.requests) == 1)
        engine.fail(engine.requests[0], NOT_FINITE)
        response = await post
    assert (response.status_code, error_of(response.text)) == (500, NOT_FINITE_ERROR)


async def test_a_stream_that_fails_later_ends_with_an_error_event() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        request = client.build_request("POST", URL, json=BODY | {"stream": True})
        sending = asyncio.create_task(client.send(request, stream=True))
        await engine.until(lambda: len(engine.requests) == 1)
        neighbour = asyncio.create_task(client.post(URL, json=BODY | {"max_tokens": 2}))
        await engine.until(lambda: len(engine.requests) == 2)
        engine.step()
        response = await sending
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith('data: {"id":')
        engine.fail(engine.requests[0], NOT_FINITE)
        assert await anext(lines) == ""
        assert error_of((await anext(lines)).removeprefix("data: ")) == NOT_FINITE_ERROR
        assert [line async for line in lines] == ["", "data: [DONE]", ""]
        assert response.status_code == 200
        await response.aclose()
        engine.step()
        assert (await neighbour).status_code == 200


async def test_silence_is_filled_with_comments() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(sse_keep_alive_seconds=0.02)) as client:
        async with client.stream(
            "POST", URL, json=BODY | {"stream": True, "max_tokens": 2}
        ) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": keep-alive"  # before the first token
            engine.step()
            while not (line := await anext(lines)).startswith("data: {"):
                assert line in ("", ": keep-alive")
            assert await anext(lines) == ""
            assert await anext(lines) == ": keep-alive"
            engine.step()
            rest = [line async for line in lines if line.startswith("data: ")]
        texts = [json.loads(line.removeprefix("data: ")) for line in rest[:-1]]
        assert [t["choices"][0]["text"] for t in texts] == ["a"]
        assert rest[-1] == "data: [DONE]"


async def test_what_came_together_is_one_event_for_each_choice() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        body = BODY | {"stream": True, "n": 2, "max_tokens": 4}
        post = asyncio.create_task(client.post(URL, json=body))
        await engine.until(lambda: not engine.is_idle)
        for _ in range(4):
            engine.step()
        events = (await post).text.split("\n\n")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert [c["choices"][0]["text"] for c in chunks] == [" and", " and"]
