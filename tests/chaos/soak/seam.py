"""The soak at the engine's seam: `EngineClient` with a real child around the fake runner.

Every token and log-probability is compared with what must come, every choice ends once, the engine
checks its pages and rows after every step, and neither process grows. Seeded: the requests are the
same each time, their interleaving is not.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from chaos.soak.engine_process import LIMITS, POISON, STEP_SECONDS
from chaos.soak.looks import Look, look_from_outside, look_inside
from chaos.soak.report import WARM_UP, Report
from fake_runner import (
    expected_beams,
    expected_logprobs,
    expected_prompt_logprobs,
    expected_tokens,
)

from engine import (
    BeamSearch,
    ChoiceOutput,
    EngineClient,
    EngineConfig,
    EngineStats,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
)

ROOT = Path(__file__).resolve().parents[3]
NUM_CLIENTS = 48  # at a time: more than run together
LONGEST_SILENCE = 120.0  # seconds; an answer that has not come then is lost


@dataclass
class Told:
    """What came for one choice."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    has_ended: bool = False
    is_whole: bool = False


@dataclass
class Tally:
    """`endings` of requests and choices, and tokens: those of prompts, those that came, and those
    that would have come if they had not been given up."""

    endings: Counter[str] = field(default_factory=Counter)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    num_given_up: int = 0

    def add(self, request: Request, choices: list[Told]) -> None:
        self.num_prompt_tokens += len(request.prompt_token_ids)
        num_tokens = sum(len(choice.token_ids) for choice in choices)
        self.num_tokens += num_tokens
        if POISON in request.prompt_token_ids or all(choice.is_whole for choice in choices):
            return
        self.num_given_up += sum(map(len, _all_tokens(request))) - num_tokens


def random_request(rng: random.Random, name: str) -> Request:
    """Short ones, long ones, common beginnings, several choices, beams, log-probabilities, tenants
    and their caches; one in fifty is poison."""
    prompt = [rng.randrange(4)] * rng.choice([0, 0, 0, 8, 8, 20, 60])  # the longest in pieces
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
    if _searches_beams(request):
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


def _searches_beams(request: Request) -> bool:
    return request.beam_search is not None and request.sampling.max_tokens > 0


def _all_tokens(request: Request) -> list[list[int]]:
    """Of each choice."""
    limit = LIMITS.max_model_len
    if _searches_beams(request):
        return [beam.token_ids for beam in expected_beams(request, limit)]
    return [expected_tokens(request, index, limit) for index in range(request.n)]


async def live(client: EngineClient, rng: random.Random, number: int, tally: Tally) -> None:
    """A call of one to three requests from its birth to its end, or to when it is given up.

    A choice may be ended alone, as one is whose stop string has come.
    """
    names = [f"r{number}.{part}" for part in range(rng.choice([1, 1, 1, 2, 3]))]
    requests = {name: random_request(rng, name) for name in names}
    patience = rng.choice([0, 1, 3]) if rng.random() < 0.3 else None  # tokens, None for all
    stops_after = rng.choice([1, 5]) if rng.random() < 0.2 else None  # of the first choice
    told = {(name, k): Told() for name, request in requests.items() for k in range(request.n)}
    async with client.add(list(requests.values())) as stream:
        if patience == 0:  # before it is begun, or in the middle of its prompt
            await asyncio.sleep(rng.choice([0, STEP_SECONDS, 4 * STEP_SECONDS]))
        while not all(choice.has_ended for choice in told.values()):
            if patience is not None and sum(len(c.token_ids) for c in told.values()) >= patience:
                tally.endings["given up"] += 1
                break
            async with asyncio.timeout(LONGEST_SILENCE):
                outputs = await anext(stream)
            for output in outputs:
                take(requests[output.request_id], output, told, tally.endings)
            first = told[names[0], 0]
            if stops_after is not None and len(first.token_ids) >= stops_after:
                stops_after = None
                if not first.has_ended:
                    stream.abort(names[0], 0)
                    first.has_ended = True
                    tally.endings["stopped"] += 1
        else:
            async for outputs in stream:
                raise AssertionError(f"{outputs} came after the end")
    for name, request in requests.items():
        tally.add(request, [told[name, k] for k in range(request.n)])


def take(
    request: Request,
    output: ChoiceOutput,
    told: dict[tuple[str, int], Told],
    endings: Counter[str],
) -> None:
    choice = told[output.request_id, output.index]
    assert not choice.has_ended, "something came after the end of a choice"
    choice.token_ids += output.token_ids
    choice.logprobs += output.logprobs or []
    choice.prompt_logprobs = output.prompt_logprobs or choice.prompt_logprobs
    if output.finish_reason is None:
        return
    choice.has_ended = choice.is_whole = True
    endings[output.finish_reason] += 1
    if POISON in request.prompt_token_ids:
        assert output.finish_reason is FinishReason.ERROR
        assert output.error is not None and output.error.code == "step_failed"
        assert not choice.token_ids
    else:
        assert output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        check_whole(request, output.index, choice)


async def soak_at_the_seam(
    num_requests: int, seconds: float, seed: int, max_launches: int
) -> Report:
    """Run until so many calls are over, or the time is. Raises AssertionError."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(str(max_launches), cache_dir=folder)
        client = EngineClient(config, module="chaos.soak.engine_process")
        await client.start()
        pid = client.pid
        assert pid is not None
        begun_at = time.monotonic()
        rng = random.Random(seed)  # noqa: S311 - to be repeatable
        numbers = iter(range(num_requests))
        tally, counts = Tally(), list[int]()
        looks: list[list[Look]] = []
        for share in (WARM_UP, 1.0):
            part = islice(numbers, int(num_requests * share) - sum(counts))
            counts.append(await _run(client, rng, part, begun_at + seconds * share, tally))
            stats = await _idle(client)
            looks.append([look_inside(), await look_from_outside(pid, Path(folder))])
        assert client.pid == pid, "the engine died"
        name = "1 launch at a time" if max_launches == 1 else f"{max_launches} launches at a time"
        report = Report(name, sum(counts), tally.endings)
        report.seconds = time.monotonic() - begun_at
        report.num_preemptions = stats.num_preemptions
        report.num_cached_tokens = stats.num_cached_tokens
        report.num_right_drafts = stats.num_right_drafts
        assert stats.num_prompt_tokens == tally.num_prompt_tokens
        given_up = {"given up": tally.num_given_up}
        report.take_waste(stats.num_generated_tokens, tally.num_tokens, given_up)
        report.take_looks(["client", "engine"], *looks, counts[-1])
        await client.close()
    return report


async def _run(
    client: EngineClient,
    rng: random.Random,
    numbers: Iterator[int],
    until: float,
    tally: Tally,
) -> int:
    """Many clients at a time; returns the number of calls."""
    num_calls = 0

    async def one_client(rng: random.Random) -> None:
        nonlocal num_calls
        for number in numbers:
            if time.monotonic() > until:
                return
            await live(client, rng, number, tally)
            num_calls += 1

    seeds = [rng.random() for _ in range(NUM_CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(one_client(random.Random(seed)))  # noqa: S311
    return num_calls


async def _idle(client: EngineClient) -> EngineStats:
    """The engine's counts when all has ended, and no page is used."""
    while (stats := await client.stats()).num_running + stats.num_waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert stats.num_blocks_used == 0, "pages are lost"
    return stats
