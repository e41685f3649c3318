"""What a streamed token costs the API process: CPU time, with a fake engine and real sockets.

    python benchmarks/http_layer.py [--streams 16 64] [--tokens 256] [--step-ms 10]
    python benchmarks/http_layer.py --rate 20000 [--streams 256] [--tokens 1500]

The API process is a child of this one and says what it has used (getrusage). Its engine process
brings a token for each stream in every step. A request's own cost is measured with one-token
answers and taken off. `events` is how many events brought a token: 1.00, or the reader was behind.
With `--rate`, streams bring so many tokens a second in total, and the figure is the share of a core
that the API process takes meanwhile, requests and all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

from octavo_client.bench.datasets import Lengths, random_prompts
from octavo_client.bench.load import Target, run_load
from octavo_client.bench.metrics import summarize
from paced_engine import VOCAB_SIZE
from uvicorn.loops.auto import auto_loop_factory

from engine import EngineClient, EngineConfig, TokenizerData
from server.api_keys import ApiKeys
from server.app import create_app
from server.http_server import HttpServer
from server.listen import bind, socket_url
from server.settings import Settings
from server.tokenizer.tokenizer import VocabularyTokenizer

HERE = Path(__file__).resolve().parent
PATH = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parent / "clients/python")])

CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "stop strings": {"stop": ["\n\nHuman:", "\n\nAssistant:"]},
    "logprobs 5": {"logprobs": 5},
}


def made_up_tokenizer() -> VocabularyTokenizer:
    """A word for each token, some with characters that JSON writes as escapes."""
    data = TokenizerData("gguf-bpe", None, None, None, None, None, None, (), False, None)
    words = [f" {'wörd' if i % 8 == 0 else 'word'}{i % 100}".encode() for i in range(VOCAB_SIZE)]
    return VocabularyTokenizer(
        data,
        encode_text=lambda text: [1],
        token_bytes=words,
        special_names={},
        added_ids={},
        add_bos=False,
    )


async def serve(step_ms: float) -> None:
    """Be the API process. A line on standard input is answered with the CPU seconds used so far."""
    engine = EngineClient(EngineConfig(str(step_ms)), module="paced_engine")
    await engine.start()
    app = create_app(engine, made_up_tokenizer(), Settings(), ["paced"], api_keys=ApiKeys([]))

    def tell_usage() -> None:
        if not sys.stdin.readline():
            server.should_exit = True
            asyncio.get_running_loop().remove_reader(0)
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([usage.ru_utime, usage.ru_stime]), flush=True)

    with bind("127.0.0.1", 0) as sock:
        server = HttpServer(app, lambda: print(socket_url(sock), flush=True), "warning")
        asyncio.get_running_loop().add_reader(0, tell_usage)
        await server.serve([sock])
    await engine.close()


class ApiProcess:
    """The child that `serve` is run in."""

    def __init__(self, step_ms: float) -> None:
        command = [sys.executable, __file__, "--serve", "--step-ms", str(step_ms)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": PATH},
        )
        self.url = f"{self._read()}/v1"

    def cpu_seconds(self) -> tuple[float, float]:
        """User and system time so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        user, system = json.loads(self._read())
        return user, system

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one run: the API process's and, for comparison, the load generator's."""

    user: float
    system: float
    client: float
    num_events: int
    seconds: float


def run(api: ApiProcess, num_streams: int, num_tokens: int, params: dict[str, object]) -> Cost:
    prompts = random_prompts(
        num_streams,
        Random(1),  # noqa: S311
        input_len=Lengths(32),
        output_len=Lengths(num_tokens),
        vocab_size=VOCAB_SIZE,
    )
    fixed = {"model": "paced", "stream": True, "stream_options": {"include_usage": True}}
    target = Target(api.url, {}, {**fixed, **params}, 600.0)
    before = api.cpu_seconds()
    own_before = resource.getrusage(resource.RUSAGE_SELF)
    answers, seconds = asyncio.run(run_load(target, prompts, max_concurrency=num_streams))
    own = resource.getrusage(resource.RUSAGE_SELF)
    after = api.cpu_seconds()
    summary = summarize(answers, seconds)
    if summary.failures or summary.num_short:
        sys.exit(f"the answers are not whole: {summary}")
    return Cost(
        user=after[0] - before[0],
        system=after[1] - before[1],
        client=own.ru_utime + own.ru_stime - own_before.ru_utime - own_before.ru_stime,
        num_events=sum(len(answer.arrivals) for answer in answers),
        seconds=seconds,
    )


def measure(api: ApiProcess, name: str, num_streams: int, num_tokens: int, repeats: int) -> None:
    """Print a row of the table: the cheapest of the repeats is the least disturbed."""
    params = CASES[name]
    run(api, num_streams, 4, params)
    starts = [run(api, num_streams, 1, params) for _ in range(repeats)]
    start = min(starts, key=lambda cost: cost.user + cost.system)
    wholes = [run(api, num_streams, num_tokens, params) for _ in range(repeats)]
    whole = min(wholes, key=lambda cost: cost.user + cost.system)
    per_token = 1e6 / (num_streams * (num_tokens - 1))
    user, system = whole.user - start.user, whole.system - start.system
    request = 1e6 * (start.user + start.system) / num_streams
    print(
        f"{num_streams:7}  {name:14} {(user + system) * per_token:9.1f} {user * per_token:6.1f}"
        f" {system * per_token:6.1f} {request:10.0f}"
        f" {(whole.num_events - start.num_events) * per_token / 1e6:7.2f}"
        f" {(whole.client - start.client) * per_token:9.1f}",
        flush=True,
    )


def measure_rate(rate: int, num_streams: int, num_tokens: int, names: list[str]) -> None:
    """Print a row for each case: what came of the rate, and what it took."""
    print(f"{num_streams} streams, {rate} tokens a second asked for in total")
    print("case           came/s   share of a core   user system  events  client's")
    api = ApiProcess(1e3 * num_streams / rate)
    try:
        for name in names:
            run(api, num_streams, 16, CASES[name])
            cost = run(api, num_streams, num_tokens, CASES[name])
            total = num_streams * num_tokens
            user, system = cost.user / cost.seconds, cost.system / cost.seconds
            print(
                f"{name:14} {total / cost.seconds:6.0f} {user + system:17.2f} {user:6.2f}"
                f" {system:6.2f} {cost.num_events / total:7.2f} {cost.client / cost.seconds:9.2f}",
                flush=True,
            )
    finally:
        api.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", help="16 64, with --rate 256")
    parser.add_argument("--tokens", type=int, help="of each answer: 256, with --rate 1500")
    parser.add_argument("--rate", type=int, help="tokens a second of all streams together")
    parser.add_argument("--step-ms", type=float, default=10.0, help="between two tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(serve(args.step_ms))
        return
    if args.rate is not None:
        for num_streams in args.streams or [256]:
            measure_rate(args.rate, num_streams, args.tokens or 1500, args.cases)
        return
    api = ApiProcess(args.step_ms)
    print("microseconds of CPU time, of the API process for a token and for a request")
    print("streams  case           per token   user system  a request  events  client's")
    try:
        for num_streams in args.streams or [16, 64]:
            for name in args.cases:
                measure(api, name, num_streams, args.tokens or 256, args.repeats)
    finally:
        api.close()


if __name__ == "__main__":
    main()
