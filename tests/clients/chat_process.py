"""`octavo chat` as a process of its own, and what a server answers to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_server import (
    DONE,
    Answer,
    FaultServer,
    chunk,
    event,
    json_answer,
    stream_answer,
)
from pseudo_terminal import Terminal, terminal

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"
COMMAND = [sys.executable, "-m", "octavo_client", "chat", "--model", "m"]

NOT_FOUND = json_answer({"error": {"message": "Invalid URL", "code": None}}, 404)
TOO_LONG = json_answer(
    {"error": {"message": "The context has 9 tokens.", "code": "context_length_exceeded"}}, 400
)


def applied(prompt: str = "<prompt>", *stop_token_ids: int) -> Answer:
    return json_answer({"prompt": prompt, "stop_token_ids": list(stop_token_ids)})


def says(*pieces: str, finish_reason: str = "stop") -> Answer:
    *first, last = pieces
    events = [*(event(chunk(text)) for text in first), event(chunk(last, finish_reason))]
    return stream_answer(*events, DONE)


def environment(server: FaultServer, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(CLIENT),
        "OCTAVO_BASE_URL": server.base_url,
        "XDG_CONFIG_HOME": str(home),
        "HOME": str(home),
        "TERM": "xterm-256color",
    }


def chat(
    server: FaultServer, home: Path, piped: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(server, home),
        input=piped,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
    )


@contextmanager
def at_terminal(server: FaultServer, home: Path, *arguments: str) -> Iterator[Terminal]:
    with terminal([*COMMAND, *arguments], environment(server, home), cwd=home) as screen:
        screen.expect(">>> ")
        yield screen


def sent(server: FaultServer, path: str) -> list[dict[str, object]]:
    return [request.json for request in server.requests if request.path.endswith(path)]
