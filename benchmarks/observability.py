"""What it costs to see everything: throughput with metrics, log lines and scrapes, and without any.

    python benchmarks/observability.py [--cases paced model] [--rounds 120] [--quick]

One process with one engine serves two applications. "bare" is put together without observers: no
records, no metrics, no log, no traces. "observed" is what `octavo serve` is, writes a JSON line for
each request to a file, sends spans if OTEL_EXPORTER_OTLP_ENDPOINT is set, and is asked for /metrics
and /stats in each second of its load, on a connection that is kept, as Prometheus does. A round
puts the same load, whose answers are the same token for token, on both, one after the other, the
first one in turn. Rounds are short and many: machines drift within minutes, hardly within seconds.
The cost is the median over the rounds of what is lost of the throughput within a round, with the
interval that holds the true median in 95 of 100 such measurements, whatever the distribution.
`paced` is an engine without a model that brings tokens as fast as the rest takes them, `model` the
built-in one.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
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


CASES = {"paced": Case(64, 2, 256, 49152), "model": Case(16, 1, 64, 40000)}
QUICK = {"paced": Case(4, 2, 16, 49152), "model": Case(2, 1, 4, 40000)}


@dataclass(frozen=True)
class Run:
    """Output tokens a second, and the API process's CPU time for one, in microseconds."""

    rate: float
    cpu: float


class Server:
    """The API process, and the URL of each of its applications."""

    def __init__(self, process: subprocess.Popen[bytes], urls: dict[str, str]) -> None:
        self._process = process
        self.urls = urls
        self._scrape_in = 0.0
        address = urllib.parse.urlsplit(urls["observed"]).netloc
        self._collector = http.client.HTTPConnection(address, timeout=60)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not come up (exit code {self._process.poll()})")
            time.sleep(0.1)

    def cpu_seconds(self) -> float:
        """What its threads have used so far; /proc/PID/stat counts in hundredths of a second."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    async def scrape(self) -> None:
        """What a collector and a curious operator ask for, in each second for which this runs."""
        while True:
            due = time.monotonic() + self._scrape_in
            try:
                await asyncio.sleep(self._scrape_in)
            finally:
                self._scrape_in = max(due - time.monotonic(), 0.0)
            self._scrape_in = SCRAPE_SECONDS
            for page in ("metrics", "stats"):
                await asyncio.to_thread(self._read, f"/{page}")

    def _read(self, path: str) -> None:
        self._collector.request("GET", path)
        answer = self._collector.getresponse()
        content = answer.read()
        assert answer.status == 200, content

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.urls['bare']}/health", timeout=5):  # noqa: S310
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def running(engine: str) -> Iterator[Server]:
    """A server for as long as it is needed."""
    with ExitStack() as stack:
        sockets = {watch: stack.enter_context(bind("127.0.0.1", 0)) for watch in WATCHES}
        log = stack.enter_context(tempfile.TemporaryFile())
        fds = [sock.fileno() for sock in sockets.values()]
        process = subprocess.Popen(
            [sys.executable, HERE / "observed_server.py", *map(str, fds), engine],
            pass_fds=fds,
            stdout=log,
            env={**os.environ, "PYTHONPATH": PATH},
        )
        server = Server(process, {watch: socket_url(sock) for watch, sock in sockets.items()})
        try:
            server.wait_ready()
            yield server
        finally:
            process.terminate()
            process.wait(60)


def run(server: Server, watch: str, case: Case, seed: int) -> Run:
    """Put the load on an application once. They do not share what they have cached."""
    prompts = random_prompts(
        case.num_streams * case.num_requests,
        Random(seed),  # noqa: S311
        input_len=Lengths(32),
        output_len=Lengths(case.num_tokens),
        vocab_size=case.vocab_size,
    )
    fixed = {"model": MODEL_NAME, "stream": True, "ignore_eos": True, "temperature": 0}
    params = {**fixed, "stream_options": {"include_usage": True}, "cache_salt": watch}
    target = Target(f"{server.urls[watch]}/v1", {}, params, 600.0)

    async def load() -> tuple[list[Answer], float]:
        async with asyncio.TaskGroup() as group:
            scraping = group.create_task(server.scrape()) if watch == "observed" else None
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


def median_interval(values: list[float]) -> tuple[float, float]:
    """Within which the median of the distribution lies, at 95 %: the order statistics about half
    of 1.96 standard deviations of a binomial count away from the middle."""
    ordered = sorted(values)
    reach = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach))
    return ordered[low], ordered[high]


def measure(name: str, case: Case, engine: str, num_rounds: int) -> float:
    """Print the rows of a case; returns the share of the throughput that is lost."""
    runs: dict[str, list[Run]] = {watch: [] for watch in WATCHES}
    with running(engine) as server:
        for watch in WATCHES:
            run(server, watch, case, 0)  # warms up
        for number in range(num_rounds):
            for watch in WATCHES if number % 2 == 0 else reversed(WATCHES):
                runs[watch].append(run(server, watch, case, number + 1))
    lost = [
        1 - observed.rate / bare.rate
        for bare, observed in zip(runs["bare"], runs["observed"], strict=True)
    ]
    low, high = median_interval(lost)
    for watch in WATCHES:
        rate = statistics.median(one.rate for one in runs[watch])
        cpu = statistics.median(one.cpu for one in runs[watch])
        tail = ""
        if watch == "observed":
            tail = f"{statistics.median(lost):8.2%}   {low:.2%} to {high:.2%}"
        print(f"{name:6} {watch:9} {case.num_streams:7} {rate:10.1f} {cpu:9.2f} {tail}".rstrip())
    return statistics.median(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--step-ms", type=float, default=0.0, help="of the paced engine")
    parser.add_argument("--quick", action="store_true", help="tiny loads: whether it works")
    args = parser.parse_args()
    print("case   server    streams      tok/s  CPU/token   lost     95 % of medians", flush=True)
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
