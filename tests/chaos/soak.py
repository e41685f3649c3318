"""Thousands of random requests and aborts through a real engine process: `make soak`.

Every token and log-probability is compared with what must come, every choice ends once, the engine
checks its pages and rows after every step, and neither process grows. Half of them with one launch
at a time, half with two. Seeded: the requests are the same each time, their
interleaving is not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "chaos")]

from fake_runner import (  # noqa: E402
    expected_beams,
    expected_logprobs,
    expected_prompt_logprobs,
    expected_tokens,
)
from soak_engine_process import LIMITS, POISON  # noqa: E402

from engine import (  # noqa: E402
    BeamSearch,
    ChoiceOutput,
    EngineClient,
    EngineConfig,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
)

NUM_CLIENTS = 48  # at a time: more than run together
WARM_UP = 0.3  # share of the requests after which memory is looked at for the first time
LONGEST_SILENCE = 120.0  # seconds; an answer that has not come then is lost
MOST_GROWTH = 24 * 2**20  # bytes; what is kept of thousands of requests would be more


@dataclass
class Report:
    """What happened: how the choices ended, and how much the processes grew (bytes, descriptors)"""

    endings: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    num_right_drafts: int = 0
    seconds: float = 0.0
    growth: list[int] = field(default_factory=list)
    new_files: list[int] = field(default_factory=list)


@dataclass
class Told:
    """What came for one choice."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    has_ended: bool = False


def random_request(rng: random.Random, name: str) -> Request:
    """Short ones, long ones, common beginnings, several choices, beams, log-probabilities, tenants
    and their caches; one in fifty is poison."""
    prompt = [rng.randrange(4)] * rng.choice([0, 0, 8, 20])
    prompt += [rng.randrange(90) for _ in range(rng.randint(1, 12))]
    if rng.random() < 0.02:
        prompt.append(POISON)
    beam_search = BeamSearch(early_stopping=rng.choice([False, True]))
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling=SamplingParams(
            seed=rng.randrange(3),
            max_tokens=rng.choice([0, 1, 4, 12, 40]),
            stop_token_ids=tuple(range(0, 97, 7)) if rng.random() < 0.2 else (),
            logprobs=rng.choice([None, None, None, 0, 3]),
            prompt_logprobs=rng.choice([None] * 7 + [1]),
        ),
        n=rng.choice([1, 1, 1, 1, 2, 3]),
        cache_salt=rng.choice(["", "", "salt"]),
        priority=rng.choice([0, 0, 0, 1]),
        beam_search=beam_search if rng.random() < 0.05 else None,
        tenant=rng.choice(["", "a", "b"]),
    )


def check_whole(request: Request, index: int, told: Told) -> None:
    """Everything that an answer says must be what it should say."""
    prompt_logprobs = request.sampling.prompt_logprobs
    if request.beam_search is not None and request.sampling.max_tokens > 0:
        best = expected_beams(request, LIMITS.max_model_len)[index]
        assert told.token_ids == best.token_ids
        if request.sampling.logprobs is not None:
            assert told.logprobs == best.logprobs
        return
    assert told.token_ids == expected_tokens(request, index, LIMITS.max_model_len)
    if request.sampling.logprobs is not None and told.token_ids:
        assert told.logprobs == expected_logprobs(request, told.token_ids)
    if prompt_logprobs is not None and index == 0:
        assert told.prompt_logprobs == expected_prompt_logprobs(request)


async def live(client: EngineClient, rng: random.Random, number: int, report: Report) -> None:
    """A call of one to three requests from its birth to its end, or to when it is given up.

    A choice may be ended alone, as one is whose stop string has come.
    """
    names = [f"r{number}.{part}" for part in range(rng.choice([1, 1, 1, 2, 3]))]
    requests = {name: random_request(rng, name) for name in names}
    patience = rng.choice([0, 1, 3]) if rng.random() < 0.3 else None  # tokens, None for all
    stops_after = rng.choice([1, 5]) if rng.random() < 0.2 else None  # of the first choice
    told = {(name, k): Told() for name, request in requests.items() for k in range(request.n)}
    async with client.add(list(requests.values())) as stream:
        while not all(choice.has_ended for choice in told.values()):
            if patience is not None and sum(len(c.token_ids) for c in told.values()) >= patience:
                report.endings["given up"] += 1
                return
            async with asyncio.timeout(LONGEST_SILENCE):
                outputs = await anext(stream)
            for output in outputs:
                take(requests[output.request_id], output, told, report)
            first = told[names[0], 0]
            if stops_after is not None and len(first.token_ids) >= stops_after:
                stops_after = None
                if not first.has_ended:
                    stream.abort(names[0], 0)
                    first.has_ended = True
                    report.endings["stopped"] += 1
        async for outputs in stream:
            raise AssertionError(f"{outputs} came after the end")


def take(
    request: Request, output: ChoiceOutput, told: dict[tuple[str, int], Told], report: Report
) -> None:
    choice = told[output.request_id, output.index]
    assert not choice.has_ended, "something came after the end of a choice"
    choice.token_ids += output.token_ids
    choice.logprobs += output.logprobs or []
    choice.prompt_logprobs = output.prompt_logprobs or choice.prompt_logprobs
    if output.finish_reason is None:
        return
    choice.has_ended = True
    report.endings[output.finish_reason] += 1
    if POISON in request.prompt_token_ids:
        assert output.finish_reason is FinishReason.ERROR
        assert output.error is not None and output.error.code == "step_failed"
        assert not choice.token_ids
    else:
        assert output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        check_whole(request, output.index, choice)


def memory(pid: int) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def num_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def soak(num_requests: int, seconds: float, seed: int, max_launches: int = 1) -> Report:
    """Run until so many calls are over, or the time is. Raises AssertionError."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS / "chaos")])
    client = EngineClient(EngineConfig(str(max_launches)), module="soak_engine_process")
    await client.start()
    assert client.pid is not None
    pids = [os.getpid(), client.pid]
    report = Report()
    rng = random.Random(seed)  # noqa: S311 - to be repeatable
    started = time.monotonic()
    before: list[int] = []
    files: list[int] = []
    numbers = iter(range(num_requests))

    async def one_client(rng: random.Random) -> None:
        nonlocal before, files
        for number in numbers:
            elapsed = time.monotonic() - started
            if elapsed > seconds:
                return
            is_warm = report.num_requests >= WARM_UP * num_requests or elapsed > WARM_UP * seconds
            if is_warm and not before:
                before = [memory(pid) for pid in pids]
                files = [num_files(pid) for pid in pids]
            await live(client, rng, number, report)
            report.num_requests += 1

    seeds = [rng.random() for _ in range(NUM_CLIENTS)]
    clients = [one_client(random.Random(seed)) for seed in seeds]  # noqa: S311
    await asyncio.gather(*clients)
    report.seconds = time.monotonic() - started
    while (stats := await client.stats()).num_running + stats.num_waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert stats.num_blocks_used == 0, "pages are lost"
    assert client.pid == pids[1], "the engine died"
    report.num_preemptions = stats.num_preemptions
    report.num_cached_tokens = stats.num_cached_tokens
    report.num_right_drafts = stats.num_right_drafts
    report.growth = [memory(pid) - was for pid, was in zip(pids, before, strict=True)]
    report.new_files = [num_files(pid) - was for pid, was in zip(pids, files, strict=True)]
    assert report.new_files == [0, 0], f"descriptors were left open: {report.new_files}"
    assert max(report.growth) < MOST_GROWTH, f"memory grew by {report.growth} bytes"
    await client.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for max_launches in (1, 2):
        report = asyncio.run(
            soak(options.requests // 2, options.seconds / 2, options.seed, max_launches)
        )
        print(f"{max_launches} launches at a time: {report}", flush=True)


if __name__ == "__main__":
    main()
