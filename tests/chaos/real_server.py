"""`python -m server` with the built-in model, as a process of its own, and requests to it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from engine_children import is_running

ROOT = Path(__file__).parents[2]


def command(model: Path, *options: str, program: Sequence[str] = ("-m", "server")) -> list[str]:
    return [
        *[sys.executable, *program, str(model), "--port", "0", "--dtype", "float32"],
        *["--served-model-name", "smol", "--max-model-len", "1024", "--log-format", "console"],
        *options,
    ]


@contextmanager
def serving(
    model: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    limit: Callable[[], None] | None = None,
    program: Sequence[str] = ("-m", "server"),
    prefix: Sequence[str] = (),
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL. What it writes goes to our own standard error. `prefix` is a command
    that becomes it."""
    process = subprocess.Popen(
        [*prefix, *command(model, *options, program=program)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    assert process.stderr is not None
    try:
        url = None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            url = url or re.search(r"http://127\.0\.0\.1:\d+", line)
            if line.startswith("Ready."):
                break
        assert url, "it did not come up"
        yield process, url[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def serving_unheard(
    model: Path, *options: str, prefix: Sequence[str], log_format: str = "json"
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """As `serving`, for a server whose words go nowhere."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*prefix, *command(model, "--port", str(port), "--log-format", log_format, *options)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        wait_healthy(process, url)
        yield process, url
    finally:
        process.kill()
        process.wait()


def wait_healthy(process: subprocess.Popen[Any], url: str, seconds: float = 120.0) -> None:
    """Until /health is 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=60).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"not healthy for {seconds} s")


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
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("octavo: ")]
    return line
