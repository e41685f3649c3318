"""Starts `octavo serve` and runs `octavo bench serve` against it, once for each number of streams.

    python benchmarks/serving.py [--model MODEL] [--streams 1 16 32] [options of octavo bench serve]

Each run has as many warm-up requests as streams and `--rounds` measured ones for each stream.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
OCTAVO = [sys.executable, "-m", "octavo_client"]
START_TIMEOUT = 600.0


def is_healthy(root_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{root_url}/health", timeout=5):  # noqa: S310
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def octavo_serve(model: str | None) -> Iterator[str]:
    """A server from this source tree on a free port, for as long as it is needed: its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*OCTAVO, "serve", *([model] if model else []), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": PATH}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        root_url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT
        while not is_healthy(root_url):
            if process.poll() is not None:
                sys.exit(f"the server ended with {process.returncode} before it was ready")
            if time.monotonic() > deadline:
                sys.exit(f"the server was not ready within {START_TIMEOUT:.0f} s")
            time.sleep(0.2)
        yield f"{root_url}/v1"
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="what to serve; default: the built-in model")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 32], help="at once")
    parser.add_argument("--rounds", type=int, default=3, help="requests of each stream")
    args, options = parser.parse_known_args()
    failed = False
    with octavo_serve(args.model) as url:
        for num_streams in args.streams:
            command = [*OCTAVO, "bench", "serve", "--url", url]
            command += ["--max-concurrency", str(num_streams)]
            command += ["--num-prompts", str(num_streams * args.rounds), *options]
            environment = {**os.environ, "PYTHONPATH": PATH}
            failed |= subprocess.run(command, env=environment).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
