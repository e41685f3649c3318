"""A real server in a process of its own, from this source tree, for tests from the outside."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients/python'}"}


def command(model: Path, *options: str, program: Sequence[str] = ("-m", "server")) -> list[str]:
    """`python -m server` with `model` as `smol`, on a free port."""
    return [
        *[sys.executable, *program, str(model), "--port", "0", "--served-model-name", "smol"],
        *options,
    ]


@contextmanager
def serving(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdout: IO[bytes] | None = None,
    limit: Callable[[], None] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, when it says that it is ready, and its address. What it wrote to standard error
    by then goes to ours, what it writes later is the test's to read."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT | (environment or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    assert process.stderr is not None
    try:
        address = None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            address = address or re.search(r"http://127\.0\.0\.1:\d+", line)
            if line == "Ready.\n":
                break
        assert address, "it did not come up"
        yield process, address[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def serving_unheard(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """As `serving`, for a server whose words are not read."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, env=ENVIRONMENT)
    try:
        wait_healthy(process, address)
        yield process, address
    finally:
        process.kill()
        process.wait()


@contextmanager
def octavo_serve(*options: str) -> Iterator[str]:
    """`octavo serve`, ready to answer: its address, without a path."""
    command = [sys.executable, "-m", "octavo_client", "serve", *options]
    with serving_unheard(command) as (process, address):
        yield address
        process.terminate()
        process.wait(60)


def wait_healthy(process: subprocess.Popen[Any], address: str, seconds: float = 120.0) -> None:
    """Until /health is 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=60).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"not healthy for {seconds} s")
