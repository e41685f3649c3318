"""`create_many`, with both clients on a real socket and in a process that is interrupted."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import octavo_client
import pytest
from both_faces import MakeClient, inside, settled
from fault_server import SILENCE, FaultServer, SeenRequest, chunk, json_answer
from octavo_client import AsyncClient, Client

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"


def echo(request: SeenRequest) -> list[bytes | str | float]:
    """Answer with the prompt; refuse the prompt "bad"; the longer the prompt, the sooner."""
    prompt = request.json["prompt"]
    if prompt == "bad":
        return json_answer({"error": {"message": "No.", "param": "prompt"}}, 400)
    pause = 0.05 if prompt == "slow" else 0.0
    return [pause, *json_answer(chunk(f"<{prompt}>", "stop"))]


async def test_results_are_in_order_and_failures_stand_alone(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answer = echo
    prompts = ["slow", "a", "bad", "b", [1, 2]]
    async with inside(make_client(server.base_url)) as client:
        results = await settled(
            client.completions.create_many(iter(prompts), model="m", concurrency=3, max_tokens=5)
        )
    assert [result.index for result in results] == [0, 1, 2, 3, 4]
    assert [result.prompt for result in results] == prompts
    good = [result for result in results if result.error is None]
    assert [result.text for result in good] == ["<slow>", "<a>", "<b>", "<[1, 2]>"]
    assert good[0].unwrap().choices[0].finish_reason == "stop"
    bad = results[2]
    assert bad.completion is None
    assert isinstance(bad.error, octavo_client.BadRequestError)
    assert bad.error.param == "prompt"
    with pytest.raises(octavo_client.BadRequestError):
        bad.text  # noqa: B018
    assert {request.json["max_tokens"] for request in server.requests} == {5}


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_concurrency_is_bounded(
    server: FaultServer, make_client: MakeClient, concurrency: int
) -> None:
    server.answer = lambda request: [0.05, *json_answer(chunk("a", "stop"))]
    async with inside(make_client(server.base_url)) as client:
        results = await settled(
            client.completions.create_many(["x"] * 9, model="m", concurrency=concurrency)
        )
    assert [result.text for result in results] == ["a"] * 9
    assert server.num_connections == server.max_at_once == concurrency


async def test_no_prompts(server: FaultServer, make_client: MakeClient) -> None:
    async with inside(make_client(server.base_url)) as client:
        assert await settled(client.completions.create_many([], model="m")) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"prompts": "one text"}, "list of prompts"),
        ({"prompts": [1, 2]}, "a prompt is a text"),
        ({"prompts": ["a"], "prompt": "b"}, "prompt"),
        ({"prompts": ["a"], "concurrency": 0}, "concurrency"),
        ({"prompts": ["a"], "max_token": 1}, "max_tokens"),
    ],
)
async def test_wrong_arguments(
    server: FaultServer, make_client: MakeClient, arguments: dict[str, Any], expected: str
) -> None:
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises((TypeError, ValueError), match=expected):
            await settled(client.completions.create_many(model="m", **arguments))
    assert server.requests == []


async def test_what_is_no_failure_of_the_api_ends_all(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: [SILENCE]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(TypeError, match="JSON"):
            await settled(
                client.completions.create_many(["a", "b"], model="m", extra_body={"x": {1}})
            )


async def test_a_bar_goes_to_standard_error(
    server: FaultServer, make_client: MakeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answer = echo
    async with inside(make_client(server.base_url)) as client:
        await settled(client.completions.create_many(["a", "bad"], model="m"))
        assert capfd.readouterr() == ("", "")
        await settled(client.completions.create_many(["a", "bad"], model="m", progress=True))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "2/2" in shown.err
    assert "1 failed" in shown.err


async def test_cancelling_closes_all_connections(server: FaultServer) -> None:
    server.answer = lambda request: [SILENCE]
    async with AsyncClient(server.base_url) as client:
        task = asyncio.ensure_future(client.completions.create_many(["a"] * 5, model="m"))
        await asyncio.to_thread(server.wait_until_silent, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.wait_until_left, 5)


def test_ctrl_c_closes_all_connections(server: FaultServer) -> None:
    server.answer = lambda request: [SILENCE]
    script = f"""
from octavo_client import Client
with Client({server.base_url!r}) as client:
    try:
        client.completions.create_many(["a"] * 5, model="m")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(CLIENT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        server.wait_until_silent(5)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"interrupted\n"
        # The process lives on, its connections do not.
        server.wait_until_left(5)
        assert process.poll() is None
        process.communicate(b"\n")
    assert process.returncode == 0


async def test_within_a_running_event_loop(server: FaultServer) -> None:
    """As in a notebook."""
    server.answer = echo
    with Client(server.base_url, api_key="k") as client:
        (result,) = client.with_options(max_retries=0).completions.create_many(["a"], model="m")
    assert result.text == "<a>"
    assert server.requests[0].headers["authorization"] == "Bearer k"


def test_a_client_of_the_callers_own(server: FaultServer) -> None:
    with httpx.Client() as http, Client(server.base_url, http_client=http) as client:
        for each in (client, client.with_options(max_retries=0)):
            with pytest.raises(ValueError, match="AsyncClient"):
                each.completions.create_many(["a"], model="m")
