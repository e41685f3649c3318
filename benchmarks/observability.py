"""What it costs to see everything: throughput with metrics, log lines and scrapes, and without any.

    python benchmarks/observability.py [--cases paced model] [--rounds 6] [--quick]

Two servers run at a time. "bare" is put together without observers: no records, no metrics, no log,
no traces. "observed" is what `octavo serve` is, writes a JSON line for each request to a file,
sends spans if OTEL_EXPORTER_OTLP_ENDPOINT is set, and is asked for /metrics and /stats each second.
A round puts the same load on both, one after the other, the first one in turn; the cost is the
median over the rounds of what is lost of the throughput within a round. `paced` is an engine
without a model that brings tokens as fast as the rest takes them, `model` the built-in one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from observed_server import MODEL_NAME
from octavo_client.bench.answer import Answer
from octavo_client.bench.datasets import Lengths, random_prompts
from octavo_client.bench.load import Target, run_load
from octavo_client.bench.metrics import summarize

from engine import BUILTIN_MODEL, default_cache_dir, resolve_model
from server.listen import bind, socket_url

HERE = Path(__file__).resolve().parent
PATH = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parent / "clients/python")])
WATCHES = ("bare", "observed")
SCRAPE_SECONDS = 1.0
START_SECONDS = 600.0
TARGET_SHARE = 0.02


@dataclass(frozen=True)
class Case:
    """So many streams, each with so many requests of so many tokens, one after the other."""

    num_streams: int
    num_requests: int
    num_tokens: int
    vocab_size: int


CASES = {"paced": Case(64, 8, 256, 49152), "model": Case(16, 4, 64, 40000)}
QUICK = {"paced": Case(4, 2, 16, 49152), "model": Case(2, 1, 4, 40000)}


@dataclass(frozen=True)
class Run:
    """Output tokens a second, and the API process's CPU time for one, in microseconds."""

    rate: float
    cpu: float


class Server:
    """One API process and its URL."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"a server did not come up (exit code {self._process.poll()})")
            time.sleep(0.1)

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):  # noqa: S310
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def running(engine: str, watch: str) -> Iterator[Server]:
    """A server for as long as it is needed."""
    environment = {**os.environ, "PYTHONPATH": PATH}
    if watch == "bare":
        environment = {k: v for k, v in environment.items() if not k.startswith("OTEL_")}
    with bind("127.0.0.1", 0) as sock, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, HERE / "observed_server.py", str(sock.fileno()), engine, watch],
            pass_fds=[sock.fileno()],
            stdout=log,
            env=environment,
        )
        server = Server(process, socket_url(sock))
        try:
            server.wait_ready()
            yield server
        finally:
            process.terminate()
            process.wait(60)


def run(server: Server, case: Case, seed: int, *, is_scraped: bool) -> Run:
    """Put the load on it once."""
    prompts = random_prompts(
        case.num_streams * case.num_requests,
        Random(seed),  # noqa: S311
        input_len=Lengths(32),
        output_len=Lengths(case.num_tokens),
        vocab_size=case.vocab_size,
    )
    fixed = {"model": MODEL_NAME, "stream": True, "ignore_eos": True}
    params = {**fixed, "stream_options": {"include_usage": True}}
    target = Target(f"{server.url}/v1", {}, params, 600.0)

    async def load() -> tuple[list[Answer], float]:
        async with asyncio.TaskGroup() as group:
            scraping = group.create_task(_scrape(server.url)) if is_scraped else None
            result = await run_load(target, prompts, max_concurrency=case.num_streams)
            if scraping is not None:
                scraping.cancel()
        return result

    before = server.cpu_seconds()
    answers, seconds = asyncio.run(load())
    cpu = server.cpu_seconds() - before
    summary = summarize(answers, seconds)
    if summary.failures or summary.num_short:
        sys.exit(f"the answers are not whole: {summary}")
    return Run(summary.output_rate, 1e6 * cpu / summary.num_output_tokens)


async def _scrape(url: str) -> None:
    """What a collector and a curious operator ask for, each second, from the first moment on."""
    while True:
        for page in ("metrics", "stats"):
            await asyncio.to_thread(_get, f"{url}/{page}")
        await asyncio.sleep(SCRAPE_SECONDS)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


def measure(name: str, case: Case, engine: str, num_rounds: int) -> float:
    """Print the rows of a case; returns the share of the throughput that is lost."""
    runs: dict[str, list[Run]] = {watch: [] for watch in WATCHES}
    with ExitStack() as stack:
        servers = {watch: stack.enter_context(running(engine, watch)) for watch in WATCHES}
        for watch, server in servers.items():
            run(server, case, 0, is_scraped=watch == "observed")  # warms up
        for number in range(num_rounds):
            for watch in WATCHES if number % 2 == 0 else reversed(WATCHES):
                is_scraped = watch == "observed"
                runs[watch].append(run(servers[watch], case, number + 1, is_scraped=is_scraped))
    lost = [
        1 - observed.rate / bare.rate
        for bare, observed in zip(runs["bare"], runs["observed"], strict=True)
    ]
    for watch in WATCHES:
        rate = statistics.median(one.rate for one in runs[watch])
        cpu = statistics.median(one.cpu for one in runs[watch])
        tail = ""
        if watch == "observed":
            tail = f"{statistics.median(lost):8.2%}   {min(lost):.2%} to {max(lost):.2%}"
        print(f"{name:6} {watch:9} {case.num_streams:7} {rate:10.0f} {cpu:9.2f} {tail}".rstrip())
    return statistics.median(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--step-ms", type=float, default=0.0, help="of the paced engine")
    parser.add_argument("--quick", action="store_true", help="tiny loads: whether it works")
    args = parser.parse_args()
    print("case   server    streams      tok/s  CPU/token   lost     in the rounds", flush=True)
    losses = []
    for name in args.cases:
        case = QUICK[name] if args.quick else CASES[name]
        engine = f"paced:{args.step_ms}"
        if name == "model":
            cache = Path(os.environ.get("OCTAVO_CACHE") or default_cache_dir())
            engine = str(
                resolve_model(
                    BUILTIN_MODEL,
                    cache_dir=cache,
                    offline=False,
                    on_progress=lambda phase, share: None,
                )
            )
        losses.append(measure(name, case, engine, 1 if args.quick else args.rounds))
    verdict = "met" if max(losses) < TARGET_SHARE else "missed"
    print(f"target: less than {TARGET_SHARE:.0%} lost: {verdict}")


if __name__ == "__main__":
    main()
