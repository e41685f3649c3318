"""Times any OpenAI-style completions server over HTTP: N streams at once, random token ids in.

Each stream sends one request after the other until all are done. The prompts are random ids, fresh
in every run, so that no prefix cache helps; `ignore_eos` makes every answer `--max-tokens` long,
and an answer of another length counts as failed. Tokens are counted by the server's own `usage`.
The HTTP reader is a few lines over a raw socket: the load generator shares the machine with the
server and must stay cheap. Without --url it starts `octavo serve` itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

START_TIMEOUT = 600.0
# Special tokens have the first ids in most vocabularies; the prompts avoid them.
FIRST_ID = 100


@dataclass(frozen=True)
class Workload:
    """What every request looks like. `timeout` in seconds, for one whole answer."""

    model: str
    num_prompt_tokens: int
    max_tokens: int
    vocab_size: int
    temperature: float
    timeout: float


@dataclass
class Answer:
    """One finished request. Times in seconds; `arrivals` are those of events that bring text."""

    started: float
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    num_tokens: int = 0
    error: str | None = None


class ServerError(Exception):
    """The server answered something else than a whole completion."""


async def body_pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a response body as they arrive, after a status line that says 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    chunked = "transfer-encoding: chunked" in head
    if head.split(None, 2)[1] != "200":
        raise ServerError(f"HTTP {head.split(None, 2)[1]}: {(await reader.read(500))!r}")
    while chunked and (size := int(await reader.readuntil(b"\r\n"), 16)):
        yield (await reader.readexactly(size + 2))[:-2]
    while not chunked and (piece := await reader.read(65536)):
        yield piece


async def events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of each server-sent event; ends with [DONE] and only there."""
    rest = b""
    async for piece in body_pieces(reader):
        *lines, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield data
    raise ServerError("the stream ended without [DONE]")


async def complete(url: str, work: Workload, prompt_ids: list[int]) -> Answer:
    """One streamed completion. Failures are told in the answer, not raised."""
    body = {
        "model": work.model,
        "prompt": prompt_ids,
        "max_tokens": work.max_tokens,
        "temperature": work.temperature,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    parts = urlsplit(url)
    request = (
        f"POST {parts.path.rstrip('/')}/v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "Accept: text/event-stream\r\nConnection: close\r\n\r\n"
    ).encode() + content

    answer = Answer(started=time.perf_counter())
    writer = None
    try:
        async with asyncio.timeout(work.timeout):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            writer.write(request)
            async for data in events(reader):
                now = time.perf_counter()
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(str(event["error"]))
                # The last event of a choice may bring a finish reason and no token.
                for choice in event["choices"]:
                    if choice["text"] or choice["finish_reason"] is None:
                        answer.arrivals.append(now)
                if usage := event.get("usage"):
                    answer.num_tokens = usage["completion_tokens"]
            answer.ended = time.perf_counter()
            if answer.num_tokens != work.max_tokens or not answer.arrivals:
                raise ServerError(f"{answer.num_tokens} tokens instead of {work.max_tokens}")
    except (OSError, EOFError, TimeoutError, ValueError, KeyError, ServerError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.close()
    return answer


async def run(
    url: str, work: Workload, num_streams: int, num_requests: int, noise: random.Random
) -> tuple[list[Answer], float]:
    """`num_requests` completions, `num_streams` at a time: the answers and the seconds it took."""
    prompts = [
        [noise.randrange(FIRST_ID, work.vocab_size) for _ in range(work.num_prompt_tokens)]
        for _ in range(num_requests)
    ]
    answers = []

    async def stream() -> None:
        while prompts:
            answers.append(await complete(url, work, prompts.pop()))

    started = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(num_streams)))
    return answers, time.perf_counter() - started


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return sorted(values)[max(0, min(len(values) - 1, int(share * len(values) + 0.999999) - 1))]


def report(num_streams: int, answers: list[Answer], seconds: float) -> int:
    """Print a line of the table; the number of failures."""
    good = [answer for answer in answers if answer.error is None]
    failures = [answer.error for answer in answers if answer.error is not None]
    if not good:
        print(f"{num_streams:>7}  all {len(answers)} requests failed: {failures[0]}")
        return len(failures)
    first = [1e3 * (a.arrivals[0] - a.started) for a in good]
    gaps = [
        1e3 * (later - earlier)
        for a in good
        for earlier, later in zip(a.arrivals, a.arrivals[1:], strict=False)
    ] or [0.0]
    rate = sum(a.num_tokens for a in good) / seconds
    print(
        f"{num_streams:>7} {len(answers):>8} {rate:>11.1f}"
        f" {median(first):>9.1f} {percentile(first, 0.99):>9.1f}"
        f" {median(gaps):>8.2f} {percentile(gaps, 0.99):>8.2f} {len(failures):>8}",
        flush=True,
    )
    if failures:
        print(f"        first failure: {failures[0]}")
    return len(failures)


def only_model(url: str) -> str:
    """The name of the first model that the server lists."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as response:  # noqa: S310
        return str(json.load(response)["data"][0]["id"])


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"the server was not ready within {START_TIMEOUT:.0f} s")


@contextmanager
def octavo(model: str | None, port: int) -> Iterator[str]:
    """A server of our own, from the environment that runs this script, as long as it is needed."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("octavo")), "serve", "--port", str(port)]
    process = subprocess.Popen(command + ([model] if model else []), stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def measure(url: str, model: str | None, args: argparse.Namespace) -> int:
    """Print the table for the server at `url`; the number of requests that failed."""
    url = url.rstrip("/").removesuffix("/v1")
    work = Workload(
        model=model or only_model(url),
        num_prompt_tokens=args.prompt_tokens,
        max_tokens=args.max_tokens,
        vocab_size=args.vocab_size,
        temperature=args.temperature,
        timeout=args.timeout,
    )
    print(
        f"{url}  {work.model}: {work.num_prompt_tokens} tokens in, {work.max_tokens} out, "
        f"temperature {work.temperature:g}, seed {args.seed}; times in ms, ITL between events"
    )
    print("streams requests output tok/s  TTFT p50  TTFT p99  ITL p50  ITL p99 failures")
    noise = random.Random(args.seed)  # noqa: S311
    num_failures = 0
    for num_streams in args.streams:
        asyncio.run(run(url, work, num_streams, num_streams, noise))  # warm-up
        num_requests = num_streams * args.rounds
        answers, seconds = asyncio.run(run(url, work, num_streams, num_requests, noise))
        num_failures += report(num_streams, answers, seconds)
    return num_failures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument("--model", help="default: the first one that the server lists")
    parser.add_argument("--port", type=int, default=0, help="of the server that is started")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16], help="at once")
    parser.add_argument("--rounds", type=int, default=3, help="requests of each stream")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=49152, help="ids are drawn below it")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one request")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(2**31),
        help="of the prompts; a seed used twice on one server measures its prefix cache",
    )
    args = parser.parse_args()
    try:
        if args.url:
            num_failures = measure(args.url, args.model, args)
        else:
            with octavo(args.model, args.port) as url:
                num_failures = measure(url, None, args)
    except urllib.error.URLError as error:
        sys.exit(f"cannot ask {args.url} for its models: {error}")
    sys.exit(1 if num_failures else 0)


if __name__ == "__main__":
    main()
