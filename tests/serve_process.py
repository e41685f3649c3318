"""A real server in a process of its own, from this source tree, for tests from the outside."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients/python'}"}


@contextmanager
def octavo_serve(*options: str) -> Iterator[str]:
    """`octavo serve` on a free port, ready to answer: its address, without a path."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "octavo_client", "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    try:
        address = f"http://127.0.0.1:{port}"
        while not _is_healthy(address):
            assert process.poll() is None, "octavo serve ended before it was ready"
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def serving(
    model: Path,
    *options: str,
    environment: dict[str, str] = ENVIRONMENT,
    stdout: IO[bytes] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`python -m server` with `model` as `smol`: the process, the lines that it wrote to standard
    error before it was ready, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server", str(model), "--port", "0"]
        + ["--served-model-name", "smol", *options],
        cwd=ROOT,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        output = ""
        for line in process.stderr:
            output += line
            if line == "Ready.\n":
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", output)
        assert address, output
        yield process, output, address[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.TransportError:
        return False
