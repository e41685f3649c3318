"""The overlapped loop brings what the plain one brings, whatever happens in between.

A day at the engine is made up from a seed: requests of all kinds, and who gives up after how many
tokens. It is lived once for each number of launches under way, with a runner whose results are kept
back until they are waited for.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from fake_runner import VOCAB_SIZE, FakeHandle, FakeRunner

from engine.batch import Batch, RowOutput
from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import (
    BeamSearch,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
    beam_search_blocks,
)

BLOCK_SIZE = 4
NUM_DAYS = 250

Key = tuple[str, int]


class DelayedHandle:
    """Has nothing to show before it is waited for, and that in order."""

    def __init__(self, done: FakeHandle, under_way: deque[DelayedHandle]) -> None:
        self._done = done
        self._under_way = under_way

    def wait(self) -> list[RowOutput]:
        assert self._under_way.popleft() is self, "launches are waited for out of order"
        return self._done.wait()


class DelayedRunner(FakeRunner):
    """Counts what overlaps: the most launches under way, the tokens the host did not know."""

    def __init__(self, config: SchedulerConfig, max_launches: int) -> None:
        super().__init__(config.num_blocks, config.block_size, config.max_num_seqs)
        self.max_launches = max_launches
        self.most_under_way = 0
        self.num_unknown = 0
        self._under_way: deque[DelayedHandle] = deque()

    def launch(self, batch: Batch) -> DelayedHandle:  # type: ignore[override]
        handle = DelayedHandle(super().launch(batch), self._under_way)
        self._under_way.append(handle)
        self.most_under_way = max(self.most_under_way, len(self._under_way))
        self.num_unknown += sum(len(row.token_ids) < row.num_tokens for row in batch.rows)
        return handle


@dataclass
class Day:
    """`arrivals` come when so many tokens have been reported in all, or when all is quiet; an
    `abort` (of a choice, or of all with None) when that choice has brought so many."""

    config: SchedulerConfig
    arrivals: list[tuple[int, Request]]
    aborts: dict[Key, tuple[int, int | None]]


@dataclass
class Told:
    """What the reader of one choice was told."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None


def made_up_day(seed: int) -> Day:
    rng = random.Random(seed)  # noqa: S311
    config = SchedulerConfig(
        num_blocks=rng.randint(8, 20),
        block_size=BLOCK_SIZE,
        max_num_seqs=rng.randint(1, 6),
        max_num_batched_tokens=rng.randint(2, 20),
        max_model_len=8 * BLOCK_SIZE,
        enable_prefix_caching=rng.random() < 0.7,
        max_drafts=rng.choice([0, 0, 4]),
        step_overhead=30.0,
    )
    arrivals, aborts = [], {}
    for i in range(rng.randint(3, 9)):
        request = _made_up_request(f"r{i}", rng, config)
        arrivals.append((rng.choice([0, 0, rng.randint(0, 60)]), request))
        if rng.random() < 0.3:
            index = rng.randrange(request.n)
            everything = rng.random() < 0.5 or request.beam_search is not None
            aborts[f"r{i}", index] = (rng.randint(0, 12), None if everything else index)
    return Day(config, arrivals, aborts)


def _made_up_request(request_id: str, rng: random.Random, config: SchedulerConfig) -> Request:
    prefix = rng.choice([[], [1, 2, 3, 4, 5], list(range(10, 22)), [7] * 16])
    prompt = prefix + rng.choices(range(4), k=rng.randint(1, 8))
    n, max_tokens = rng.choice([1, 1, 1, 2, 3]), rng.randint(0, 24)
    limit = min(max_tokens, config.max_model_len - len(prompt))
    beams = rng.choice([None, None, None, BeamSearch(), BeamSearch(2.0, True)])
    if n > config.max_num_seqs or config.num_blocks < beam_search_blocks(
        len(prompt), limit, n, BLOCK_SIZE
    ):
        beams = None
    return Request(
        request_id,
        prompt,
        SamplingParams(
            seed=rng.randrange(3),
            max_tokens=max_tokens,
            stop_token_ids=rng.choice([(), tuple(range(0, VOCAB_SIZE, 7))]),
            logprobs=rng.choice([None, 2]),
            prompt_logprobs=rng.choice([None, None, 0]),
        ),
        n=n,
        cache_salt=rng.choice(["", "", "other"]),
        priority=rng.choice([0, 0, -1, 1]),
        beam_search=beams,
    )


def live(day: Day, max_launches: int) -> tuple[dict[Key, Told], set[Key], EngineCore]:
    """What was told to whom, and who gave up."""
    core = EngineCore(DelayedRunner(day.config, max_launches), day.config)
    arrivals = sorted(day.arrivals, key=lambda arrival: arrival[0])
    told: dict[Key, Told] = {}
    aborted: set[Key] = set()
    num_tokens = 0
    for _ in range(5000):
        while arrivals and (num_tokens >= arrivals[0][0] or not core.has_work):
            _, request = arrivals.pop(0)
            core.add(request)
            told |= {(request.request_id, i): Told() for i in range(request.n)}
        for (request_id, index), (after, what) in day.aborts.items():
            choice = told.get((request_id, index))
            if choice is None or choice.finish_reason or len(choice.token_ids) < after:
                continue
            core.abort(request_id, what)
            gone = [key for key in told if key[0] == request_id and what in (None, key[1])]
            aborted |= {key for key in gone if told[key].finish_reason is None}
        if not core.has_work and not arrivals:
            break
        for output in core.step():
            key = (output.request_id, output.index)
            assert key not in aborted, "an output after an abort"
            choice = told[key]
            assert choice.finish_reason is None, "an output after the last one"
            choice.token_ids += output.token_ids
            choice.logprobs += output.logprobs or []
            choice.prompt_logprobs = output.prompt_logprobs or choice.prompt_logprobs
            choice.finish_reason = output.finish_reason
            choice.stop_token_id = output.stop_token_id
            num_tokens += len(output.token_ids)
        core.scheduler.check_integrity()
    assert not core.has_work and core.stats().num_blocks_used == 0, "somebody starves"
    return told, aborted, core


@pytest.mark.parametrize("max_launches", [2, 3])
def test_an_overlapped_day_is_a_plain_day(max_launches: int) -> None:
    seen = dict.fromkeys(["unknown", "preempted", "aborted", "stopped", "cached", "ahead"], 0)
    for seed in range(NUM_DAYS):
        day = made_up_day(seed)
        plain, plain_aborted, _ = live(day, 1)
        overlapped, aborted, core = live(day, max_launches)
        assert plain.keys() == overlapped.keys()
        for key, expected in plain.items():
            if key in aborted or key in plain_aborted:
                # Of one who gives up, another number of tokens may still have come.
                n = min(len(expected.token_ids), len(overlapped[key].token_ids))
                assert overlapped[key].token_ids[:n] == expected.token_ids[:n], (seed, key)
            else:
                assert expected.finish_reason is not None
                assert overlapped[key] == expected, (seed, key)
        runner = core._runner
        assert isinstance(runner, DelayedRunner)
        seen["unknown"] += runner.num_unknown
        seen["ahead"] += runner.most_under_way == max_launches
        seen["preempted"] += core.stats().num_preemptions
        seen["cached"] += core.stats().num_cached_tokens
        seen["aborted"] += len(aborted)
        seen["stopped"] += sum(
            choice.finish_reason is FinishReason.STOP for choice in overlapped.values()
        )
    assert min(seen.values()) > NUM_DAYS // 4, f"the days were dull: {seen}"


def test_the_runner_says_how_many_steps_overlap() -> None:
    config = SchedulerConfig(16, BLOCK_SIZE, 2, 16, 32)
    runner = DelayedRunner(config, 2)
    core = EngineCore(runner, config)
    core.add(Request("r", [1, 2, 3], SamplingParams(max_tokens=9)))
    core.step()
    assert runner.most_under_way == 2 and runner.num_unknown == 1
