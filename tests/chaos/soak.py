"""Thousands of random requests and aborts through a real engine process: `make soak`.

Every token is compared with what must come, every choice ends once, the engine checks its pages and
rows after every step, and neither process grows. Seeded: the requests are the same each time, their
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

from fake_runner import expected_beams, expected_tokens  # noqa: E402
from soak_engine_process import LIMITS, POISON  # noqa: E402

from engine import (  # noqa: E402
    BeamSearch,
    ChoiceOutput,
    EngineClient,
    EngineConfig,
    FinishReason,
    Request,
    SamplingParams,
)

NUM_CLIENTS = 48  # at a time: more than run together
WARM_UP = 0.3  # share of the requests after which memory is looked at for the first time
MOST_GROWTH = 24 * 2**20  # bytes; what is kept of thousands of requests would be more


@dataclass
class Report:
    """What happened: how the choices ended, and how much the processes grew (bytes, descriptors)"""

    endings: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    seconds: float = 0.0
    growth: list[int] = field(default_factory=list)
    new_files: list[int] = field(default_factory=list)


def random_request(rng: random.Random, number: int) -> Request:
    """Short ones, long ones, common beginnings, several choices, beams; one in fifty is poison."""
    prompt = [rng.randrange(4)] * rng.choice([0, 0, 8, 20])
    prompt += [rng.randrange(90) for _ in range(rng.randint(1, 12))]
    if rng.random() < 0.02:
        prompt.append(POISON)
    n = rng.choice([1, 1, 1, 1, 2, 3])
    return Request(
        request_id=f"r{number}",
        prompt_token_ids=prompt,
        sampling=SamplingParams(
            seed=rng.randrange(3),
            max_tokens=rng.choice([1, 4, 12, 40]),
            stop_token_ids=tuple(range(0, 97, 7)) if rng.random() < 0.2 else (),
        ),
        n=n,
        priority=rng.choice([0, 0, 0, 1]),
        beam_search=BeamSearch() if rng.random() < 0.05 else None,
    )


def expected(request: Request, index: int) -> list[int]:
    if request.beam_search is not None:
        return expected_beams(request, LIMITS.max_model_len)[index].token_ids
    return expected_tokens(request, index, LIMITS.max_model_len)


async def live(client: EngineClient, rng: random.Random, number: int, report: Report) -> None:
    """One request from its birth to its end, or to when it is given up."""
    request = random_request(rng, number)
    patience = rng.choice([0, 1, 3]) if rng.random() < 0.3 else None  # outputs, None for all
    received: dict[int, list[int]] = {index: [] for index in range(request.n)}
    ended: set[int] = set()
    async with client.add([request]) as stream:
        while len(ended) < request.n:
            if patience is not None and sum(map(len, received.values())) >= patience:
                report.endings["given up"] += 1
                return
            for output in await anext(stream):
                take(request, output, received, ended, report)
        async for outputs in stream:
            raise AssertionError(f"{outputs} came after the end")


def take(
    request: Request,
    output: ChoiceOutput,
    received: dict[int, list[int]],
    ended: set[int],
    report: Report,
) -> None:
    assert output.request_id == request.request_id
    assert output.index not in ended, "a choice ended twice"
    received[output.index] += output.token_ids
    if output.finish_reason is None:
        return
    ended.add(output.index)
    report.endings[output.finish_reason] += 1
    if POISON in request.prompt_token_ids:
        assert output.finish_reason is FinishReason.ERROR
        assert output.error is not None and output.error.code == "step_failed"
        assert not received[output.index]
    else:
        assert received[output.index] == expected(request, output.index)


def memory(pid: int) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def num_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def soak(num_requests: int, seconds: float, seed: int) -> Report:
    """Run until so many requests are over, or the time is. Raises AssertionError."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS / "chaos")])
    client = EngineClient(EngineConfig(""), module="soak_engine_process")
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
    print(asyncio.run(soak(options.requests, options.seconds, options.seed)))


if __name__ == "__main__":
    main()
