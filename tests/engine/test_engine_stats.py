"""What the engine counts, and how its totals go on."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from fake_runner import FakeRunner

from engine import STEP_TOKEN_BOUNDS, EngineStats
from engine.batch import Batch
from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import ChoiceOutput, Request, SamplingParams

CONFIG = SchedulerConfig(
    num_blocks=64,
    block_size=4,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_model_len=128,
)


def make_core(config: SchedulerConfig = CONFIG) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(config.num_blocks, config.block_size, config.max_num_seqs)
    return EngineCore(runner, config), runner


def request(name: str, num_prompt: int, max_tokens: int = 10, n: int = 1, seed: int = 0) -> Request:
    prompt = [(7 * i + len(name)) % 90 for i in range(num_prompt)]
    return Request(name, prompt, SamplingParams(seed=seed, max_tokens=max_tokens), n=n)


def finish(core: EngineCore) -> list[ChoiceOutput]:
    outputs = []
    while core.has_work:
        outputs += core.step()
    return outputs


def test_steps_are_counted_by_their_tokens() -> None:
    core, runner = make_core()
    for number in range(5):
        core.add(request("x" * number, num_prompt=9 * number + 1, max_tokens=6))
    finish(core)
    sizes = [batch.num_tokens for batch in runner.batches]
    stats = core.stats()
    expected = [0] * (len(STEP_TOKEN_BOUNDS) + 1)
    for size in sizes:
        expected[bisect_left(STEP_TOKEN_BOUNDS, size)] += 1
    assert len({size for size in sizes if size}) > 2
    assert list(stats.step_tokens) == expected
    assert stats.num_step_tokens == sum(sizes)
    assert sum(stats.step_tokens) == stats.num_steps


def test_an_output_says_how_often_its_choice_was_put_back() -> None:
    core, _ = make_core(replace(CONFIG, num_blocks=14, max_model_len=56))
    for number in range(4):
        core.add(request("x" * number, num_prompt=8, max_tokens=16))
    last = [output for output in finish(core) if output.finish_reason is not None]
    assert len(last) == 4
    assert core.stats().num_preemptions > 0
    assert sum(output.num_preemptions for output in last) == core.stats().num_preemptions


def test_rounds_of_guesses_by_what_came_of_them() -> None:
    core, _ = make_core(replace(CONFIG, max_drafts=6, step_overhead=30.0))
    core.add(request("repeats", num_prompt=3, max_tokens=80, seed=2))
    finish(core)
    stats = core.stats()
    assert 0 < stats.num_draft_rounds < stats.num_drafts
    right = stats.right_by_position
    assert len(right) == 6
    assert sum(right) == stats.num_right_drafts > 0
    assert list(right) == sorted(right, reverse=True), "a guess counts if those before are right"
    assert right[0] <= stats.num_draft_rounds


def test_who_waits_for_another_one_is_deferred() -> None:
    core, _ = make_core(replace(CONFIG, max_num_seqs=1))
    core.add(request("many", num_prompt=5, n=3))
    core.add(request("other", num_prompt=6))
    stats = core.stats()
    assert (stats.num_waiting, stats.num_deferred) == (4, 2)
    finish(core)
    assert core.stats().num_deferred == 0


def test_prompt_tokens_are_started_once_for_all_choices() -> None:
    core, _ = make_core()
    core.add(request("a", num_prompt=20, n=2))
    finish(core)
    core.add(request("b", num_prompt=20))  # as long a name: the same prompt
    finish(core)
    stats = core.stats()
    assert stats.num_started_tokens == stats.num_prompt_tokens == 40
    assert 0 < stats.num_cached_tokens < 20


def test_failed_steps_are_counted() -> None:
    core, runner = make_core()

    def fault(batch: Batch) -> Exception | None:
        return ValueError() if any(96 in row.token_ids for row in batch.rows) else None

    runner.fault = fault
    core.add(Request("bad", [96]))
    core.add(Request("good", [1]))
    finish(core)
    assert core.stats().num_failed_steps >= 2


def test_totals_go_on_and_gauges_do_not() -> None:
    before = EngineStats(num_running=3, num_steps=4, step_tokens=(1, 2), right_by_position=(5,))
    now = EngineStats(num_waiting=1, num_steps=2, step_tokens=(1, 1), right_by_position=(1, 1))
    both = now.after(before)
    assert (both.num_running, both.num_waiting, both.num_steps) == (0, 1, 6)
    assert both.step_tokens == (2, 3)
    assert both.right_by_position == (6, 1)
    assert now.after(EngineStats()).num_steps == 2
