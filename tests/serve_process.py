"""A real server in a process of its own, from this source tree, for tests from the outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def _is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.TransportError:
        return False
