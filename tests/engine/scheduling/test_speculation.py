"""Guessed tokens: what is guessed, when it is worth it, and that no output changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_runner import FakeRunner, expected_tokens

from engine.batch import ScheduledRow
from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import Request, SamplingParams
from engine.scheduling.drafts import Drafter, allows_drafts

CONFIG = SchedulerConfig(
    num_blocks=64,
    block_size=4,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_model_len=128,
    max_drafts=8,
    step_overhead=30.0,
)
REPEATS, RANDOM = 2, 0  # seeds of the fake runner


def drafter(token_ids: list[int]) -> Drafter:
    result = Drafter()
    result.extend(token_ids)
    return result


def run(
    requests: list[Request], config: SchedulerConfig = CONFIG, max_launches: int = 1
) -> tuple[EngineCore, dict[tuple[str, int], list[int]]]:
    runner = FakeRunner(config.num_blocks, config.block_size, config.max_num_seqs)
    core = EngineCore(runner, config, max_launches)
    received: dict[tuple[str, int], list[int]] = {}
    for request in requests:
        core.add(request)
    while core.has_work:
        for output in core.step():
            received.setdefault((output.request_id, output.index), []).extend(output.token_ids)
        core.scheduler.check_integrity()
    return core, received


def request(name: str, seed: int, **sampling: object) -> Request:
    params = replace(SamplingParams(seed=seed, max_tokens=60), **sampling)
    return Request(name, [5, 6, 7], params)


def test_what_followed_before_is_guessed_to_follow_again() -> None:
    assert drafter([1, 2, 3, 4, 5, 1, 2]).propose(3, -1.0) == [3, 4, 5]


def test_guesses_go_on_through_guesses() -> None:
    assert drafter([1, 2, 3] * 4).propose(7, 0.0) == [1, 2, 3, 1, 2, 3, 1]


def test_the_longer_match_wins() -> None:
    assert drafter([9, 8, 1, 2, 5, 7, 1, 2, 6, 9, 8, 1, 2]).propose(1, -1.0) == [5]


def test_nothing_is_known_of_new_words() -> None:
    assert drafter(list(range(50))).propose(5, -1.0) == []


def test_fewer_guesses_the_more_they_cost_and_the_more_often_they_are_wrong() -> None:
    good, bad = drafter([1, 2, 3] * 30), drafter([1, 2, 3] * 30 + [1, 9, 3, 1, 8, 3, 1, 2])
    assert good.accuracy > 0.99 > bad.accuracy
    assert len(good.propose(8, 0.5)) == 8
    lengths = [len(bad.propose(8, min_chance)) for min_chance in (0.0, 0.3, 0.6, 0.9)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 8 and lengths[-1] == 0


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (SamplingParams(), True),
        (SamplingParams(temperature=0.0, min_tokens=5, logprobs=3, logit_bias={1: 2.0}), True),
        (SamplingParams(allowed_token_ids=(1, 2)), True),
        (SamplingParams(presence_penalty=0.1), False),
        (SamplingParams(frequency_penalty=0.1), False),
        (SamplingParams(repetition_penalty=1.1), False),
        (SamplingParams(bad_words=((1, 2),)), False),
    ],
)
def test_no_guesses_where_a_draw_looks_at_the_last_one(
    params: SamplingParams, allowed: bool
) -> None:
    assert allows_drafts(params) is allowed
    core, _ = run([Request("r", [1, 2, 3] * 5, replace(params, seed=REPEATS, max_tokens=40))])
    assert (core.stats().num_drafts > 0) is allowed


@pytest.mark.parametrize("max_launches", [1, 2, 3])
@pytest.mark.parametrize("num_blocks", [64, 34])
def test_outputs_are_the_same_in_fewer_steps(max_launches: int, num_blocks: int) -> None:
    """With 34 pages they do not fit all together: guesses meet preemption. With several launches
    under way the next token is mostly asked for before the last one could be guessed from."""
    stop_token_ids = (50, 51)
    requests = [
        request("a", REPEATS),
        request("b", REPEATS + 3, stop_token_ids=stop_token_ids, logprobs=2),
        replace(request("c", REPEATS + 6), n=2),
        request("d", RANDOM, max_tokens=12),
    ]
    config = replace(CONFIG, num_blocks=num_blocks, max_model_len=64)
    steps = []
    for max_drafts in (0, 8):
        core, received = run(requests, replace(config, max_drafts=max_drafts), max_launches)
        for one in requests:
            for index in range(one.n):
                expected = expected_tokens(one, index, config.max_model_len)
                assert received[one.request_id, index] == expected
        stats = core.stats()
        steps.append(stats.num_steps)
        assert max_drafts > 0 or stats.num_drafts == 0
        assert stats.num_right_drafts <= stats.num_drafts
        assert stats.num_blocks_used == 0
    assert steps[1] < (0.8 if max_launches == 1 else 1.1) * steps[0]


def test_nothing_is_guessed_where_steps_have_no_overhead() -> None:
    core, _ = run([request("a", REPEATS)], replace(CONFIG, step_overhead=0.0))
    assert core.stats().num_drafts == 0


def test_beside_a_prompt_no_more_is_guessed_than_half_of_it() -> None:
    runner = FakeRunner(CONFIG.num_blocks, CONFIG.block_size, CONFIG.max_num_seqs)
    config = replace(CONFIG, target_step_seconds=1e-9, prompt_budget=5)
    core = EngineCore(runner, config)
    for i in range(4):
        core.add(replace(request(f"{i}", REPEATS), prompt_token_ids=[5, 6, 7, i]))
    for _ in range(14):
        core.step()
    core.add(Request("long", list(range(60)), SamplingParams(max_tokens=1)))
    while core.has_work:
        core.step()
    beside = [batch for batch in runner.batches if any(is_prompt(row) for row in batch.rows)]
    for batch in beside[1:]:
        num_prompt = sum(row.num_tokens for row in batch.rows if is_prompt(row))
        assert 2 * sum(row.num_drafts for row in batch.rows) <= num_prompt
    assert sum(row.num_drafts for batch in beside for row in batch.rows) > 0
    assert max(sum(row.num_drafts for row in batch.rows) for batch in runner.batches) > 5


def is_prompt(row: ScheduledRow) -> bool:
    return row.num_tokens - row.num_drafts > 1


def test_no_more_is_guessed_than_may_come() -> None:
    """Every guess computed could be an output: none beyond max_tokens or the model's length."""
    for changes in ({"max_tokens": 17}, {"max_tokens": 200}):
        core, received = run([request("a", REPEATS, **changes)])
        limit = min(changes["max_tokens"], CONFIG.max_model_len - 3)
        assert len(received["a", 0]) == limit
        assert core.stats().num_right_drafts > 0
