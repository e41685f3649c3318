"""A reader that is behind: what waits comes joined, in fewer events, and says the same.

The application is called as a server calls it, with a `send` that takes its time, as a full socket
does.
"""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from fake_engine import FakeEngine
from live_app import MODEL, new_app

from engine import Request

PARTS = [b"a", b"b", b" ", "ß".encode(), "世".encode(), "🎉".encode(), b"\xff"]


def script(request: Request, index: int) -> list[int]:
    random = Random(f"{request.sampling.seed} {index}")  # noqa: S311
    return [byte for _ in range(120) for byte in random.choice(PARTS)]


async def events_of(fields: dict[str, Any], turns: int) -> list[dict[str, Any]]:
    """The events of a stream whose every message takes so many turns of the event loop."""
    app = new_app(FakeEngine(script))
    body = json.dumps({"model": MODEL, "prompt": "p", "stream": True} | fields).encode()
    headers = [(b"host", b"x"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "root_path": "",
        "query_string": b"",
        "headers": [*headers, (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not requests:
            await asyncio.Event().wait()  # the client stays
        return requests.pop()

    async def send(message: dict[str, Any]) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 60)
    assert sent[0]["status"] == 200, sent
    text = b"".join(message.get("body", b"") for message in sent).decode()
    *events, done, nothing = text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def folded(events: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    choices: dict[int, dict[str, Any]] = {}
    for piece in (piece for event in events for piece in event["choices"]):
        whole = choices.setdefault(
            piece["index"], {"text": "", "token_ids": [], "finish_reason": None, "logprobs": {}}
        )
        assert whole["finish_reason"] is None, "a piece after the last one"
        whole["text"] += piece["text"]
        whole["token_ids"] += piece.get("token_ids", [])
        whole["finish_reason"] = piece["finish_reason"]
        for name, values in (piece["logprobs"] or {}).items():
            whole["logprobs"].setdefault(name, []).extend(values)
    return choices


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"logprobs": 2, "return_token_ids": True},
        {"logprobs": 1, "n": 2, "echo": True},
        {"logprobs": 0, "stop": ["世ß", "🎉a", "ab b"]},
        {"stop": ["a a"], "include_stop_str_in_output": True, "return_token_ids": True},
    ],
    ids=lambda fields: ",".join(fields) or "plain",
)
async def test_fewer_and_larger_deltas_that_say_the_same(fields: dict[str, Any]) -> None:
    num_quick = num_slow = 0
    for seed in range(4):
        asked = {"seed": seed, "max_tokens": 150} | fields
        quick, slow = await events_of(asked, 0), await events_of(asked, 12)
        assert folded(quick) == folded(slow)
        assert sum(len(choice["text"]) for choice in folded(slow).values()) > 0
        num_quick += len(quick)
        num_slow += len(slow)
    assert num_slow < num_quick / 4
