"""Real servers with the built-in model for tests of faults, what is done to them, and requests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import serve_process
from engine_children import is_running
from serve_process import ENVIRONMENT, ROOT


def command(model: Path, *options: str, program: Sequence[str] = ("-m", "server")) -> list[str]:
    quick = ["--dtype", "float32", "--max-model-len", "1024", "--log-format", "console"]
    return serve_process.command(model, *quick, *options, program=program)


@contextmanager
def serving(
    model: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    limit: Callable[[], None] | None = None,
    program: Sequence[str] = ("-m", "server"),
    prefix: Sequence[str] = (),
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL. `prefix` is a command that becomes it."""
    words = [*prefix, *command(model, *options, program=program)]
    with serve_process.serving(words, environment=environment, limit=limit) as served:
        yield served


def engine_pids(process: subprocess.Popen[Any]) -> list[int]:
    """Of the engines that it has at the moment: one, or none."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if is_running(pid)]


def kill_engine(process: subprocess.Popen[Any]) -> None:
    """And wait until the server has noticed, and started another one."""
    [engine] = engine_pids(process)
    os.kill(engine, signal.SIGKILL)
    end = time.monotonic() + 60
    while not set(engine_pids(process)) - {engine}:
        assert time.monotonic() < end, "no other engine is started"
        time.sleep(0.01)


def complete(
    url: str, max_tokens: int, number: int = 0, on_start: Callable[[], object] = bool
) -> str:
    """The whole text of a stream's answer; `on_start` is called when it has begun."""
    body = {
        "model": "smol",
        "prompt": f"Number {number} is",
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=240) as response:
        assert response.status_code == 200, response.read()
        texts = response.iter_text()
        text = next(texts)
        on_start()
        return text + "".join(texts)


def failed_start(arguments: list[str]) -> str:
    result = subprocess.run(
        arguments,
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("octavo: ")]
    return line
