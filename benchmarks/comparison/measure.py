"""Scenarios carried out against a server that runs: the figures, or a MeasureError.

Every answer is checked: it must be whole, and have as many tokens in and out as were asked for.
Times are those of `octavo bench serve`, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from urllib.parse import urlsplit

from comparison.scenarios import Intrusion, Load
from octavo_client.bench.answer import Answer
from octavo_client.bench.datasets import Prompt
from octavo_client.bench.load import ConnectionPool, Target, run_load, send
from octavo_client.bench.metrics import Summary, distribution, percentile, summarize

REQUEST_TIMEOUT = 600.0
CONNECTIONS_TIMEOUT = 60.0
NUM_SETTLED = 8  # events of each stream before the intruder comes


class MeasureError(Exception):
    """The figures would not be true; one line that says why."""


def served_model(base_url: str) -> str:
    """The name of the first model that the server lists. Raises MeasureError."""
    try:
        with urllib.request.urlopen(f"{base_url}/models", timeout=30) as response:  # noqa: S310
            return str(json.load(response)["data"][0]["id"])
    except (urllib.error.URLError, OSError, ValueError, LookupError, TypeError) as error:
        raise MeasureError(f"no models are listed: {error}") from error


def target_at(base_url: str, model: str, timeout: float = REQUEST_TIMEOUT) -> Target:
    params = {
        "model": model,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    return Target(base_url, {}, params, timeout)


def measure_load(target: Target, load: Load, round_number: int) -> dict[str, float]:
    """Warm up, then measure. Raises MeasureError."""
    warmups, prompts = load.prompts(round_number)
    answers, _ = asyncio.run(run_load(target, warmups, max_concurrency=load.streams))
    check(answers, warmups)
    answers, seconds = asyncio.run(run_load(target, prompts, max_concurrency=load.streams))
    check(answers, prompts)
    return figures_of(summarize(answers, seconds))


def figures_of(summary: Summary) -> dict[str, float]:
    """The figures that reports show."""
    figures = {"output_rate": summary.output_rate}
    for name in ("ttft", "tpot", "itl"):
        times = getattr(summary, name)
        if times is not None:
            figures |= {f"{name}_p50": times.p50, f"{name}_p99": times.p99}
    return figures


def check(answers: Sequence[Answer], prompts: Sequence[Prompt]) -> None:
    """Raises MeasureError unless there are as many answers and tokens as were asked for."""
    for answer in answers:
        if answer.error is not None:
            raise MeasureError(f"a request failed: {answer.error}")
        if answer.num_output_tokens != answer.max_tokens:
            raise MeasureError(
                f"an answer has {answer.num_output_tokens} tokens instead of {answer.max_tokens}"
            )
    counted = sorted(answer.num_prompt_tokens or 0 for answer in answers)
    asked = sorted(prompt.num_tokens or 0 for prompt in prompts)
    if counted != asked:
        raise MeasureError(f"the prompts have {sum(counted)} tokens instead of {sum(asked)}")


def measure_intrusion(target: Target, scenario: Intrusion, round_number: int) -> dict[str, float]:
    """How long decoding streams wait for tokens while the intruder's prompt is computed."""
    prompts, prompt = scenario.prompts(round_number)
    answers, intruder = asyncio.run(_intrude(target, prompts, prompt))
    check(answers, prompts)
    check([intruder], [prompt])
    return intrusion_figures(answers, intruder)


async def _intrude(
    target: Target, prompts: list[Prompt], prompt: Prompt
) -> tuple[list[Answer], Answer]:
    """The answers to `prompts`, and to `prompt`, which is sent when they all have begun."""
    pool = ConnectionPool(target.base_url)
    answers = [Answer(decoding.max_tokens) for decoding in prompts]
    intruder = Answer(prompt.max_tokens)

    async def ask(prompt: Prompt, answer: Answer) -> None:
        await send(pool, target.request(prompt), answer, target.timeout)

    def is_settled(answer: Answer) -> bool:
        is_over = answer.error is not None or answer.num_output_tokens is not None
        return is_over or len(answer.arrivals) > NUM_SETTLED

    async def ask_when_all_decode() -> None:
        while not all(map(is_settled, answers)):  # noqa: ASYNC110 - an answer has no event
            await asyncio.sleep(0.01)
        await ask(prompt, intruder)

    try:
        decoding = (ask(*pair) for pair in zip(prompts, answers, strict=True))
        await asyncio.gather(*decoding, ask_when_all_decode())
    finally:
        pool.close()
    return answers, intruder


def intrusion_figures(answers: Sequence[Answer], intruder: Answer) -> dict[str, float]:
    """Of the times between events, those that the intruder's wait for its first token touches,
    and those outside of it. Raises MeasureError unless all streams decode all that time."""
    begin, end = intruder.started, intruder.arrivals[0]
    if min(answer.arrivals[-1] for answer in answers) < end:
        raise MeasureError("a stream ended before the long prompt was computed")
    touched: list[float] = []
    quiet: list[float] = []
    for answer in answers:
        for before, at in pairwise(answer.arrivals):
            (touched if at > begin and before < end else quiet).append(1e3 * (at - before))
    touched.sort()
    undisturbed = distribution([gap / 1e3 for gap in quiet])
    figures = {
        "itl_p50": percentile(touched, 0.5),
        "itl_p99": percentile(touched, 0.99),
        "itl_max": touched[-1],
        "intruder_ttft": 1e3 * (end - begin),
    }
    if undisturbed is not None:
        figures["quiet_itl_p50"] = undisturbed.p50
    return figures


def is_answering(base_url: str, model: str) -> bool:
    """Whether a request for one token is answered. What is not ready says so or refuses."""
    target = target_at(base_url, model)
    (answer,), _ = asyncio.run(run_load(target, [Prompt([100, 200], 2, 1)], max_concurrency=1))
    return answer.error is None


class IdleConnections:
    """Connections on each of which one request was answered, then nothing more is sent."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []

    def __enter__(self) -> IdleConnections:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with ExitStack() as stack:
            stack.callback(self._loop.close)
            for writer in self._writers:
                writer.transport.abort()
            self._loop.run_until_complete(asyncio.sleep(0))

    def open(self, count: int) -> None:
        """Raises MeasureError unless all are answered in time."""

        async def connect() -> None:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            self._writers.append(writer)
            writer.write(f"GET /health HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise MeasureError(f"/health said {head.splitlines()[0][:50].decode('latin-1')!r}")

        async def connect_all() -> None:
            for _ in range(count):
                await connect()

        try:
            self._loop.run_until_complete(asyncio.wait_for(connect_all(), CONNECTIONS_TIMEOUT))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise MeasureError(
                f"only {len(self._writers)} of {count} idle connections: {error or 'no answer'}"
            ) from error
