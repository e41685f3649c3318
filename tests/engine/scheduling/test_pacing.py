"""Prompts beside others: how much of them a step takes in, and what is measured for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_runner import FakeHandle, FakeRunner

from engine import calibration
from engine import core as core_module
from engine.batch import Batch, ScheduledRow
from engine.calibration import calibrate
from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import Request, SamplingParams
from engine.scheduling.pacing import Pacer

CONFIG = SchedulerConfig(
    num_blocks=256,
    block_size=4,
    max_num_seqs=20,
    max_num_batched_tokens=512,
    max_model_len=800,
    target_step_seconds=0.05,
    prompt_budget=40,
)
DECODING = ScheduledRow(0, 9, 1, [1], 3, [], sample=True)


def step(num_prompt_tokens: int, num_decoding: int = 1) -> Batch:
    prompt = ScheduledRow(1, 0, num_prompt_tokens, [1] * num_prompt_tokens, 0, [], sample=False)
    return Batch(rows=[DECODING] * num_decoding + [prompt])


def test_prompts_alone_are_not_held_back() -> None:
    assert Pacer(CONFIG).prompt_budget(0) == 512
    assert Pacer(CONFIG).prompt_budget(1) == 40
    assert Pacer(replace(CONFIG, prompt_budget=None)).prompt_budget(1) == 512
    assert Pacer(replace(CONFIG, target_step_seconds=None)).prompt_budget(1) == 512


@pytest.mark.parametrize("token_seconds", [0.0002, 0.0005, 0.002])
@pytest.mark.parametrize("first", [16, 40, 512])
def test_steps_come_to_take_the_time_they_should(token_seconds: float, first: int) -> None:
    pacer = Pacer(replace(CONFIG, prompt_budget=first))
    for _ in range(30):
        num_tokens = pacer.prompt_budget(1)
        seconds = 0.01 + num_tokens * token_seconds
        pacer.observe(step(num_tokens), seconds)
    assert seconds == pytest.approx(0.05, rel=0.15)


def test_one_slow_step_is_soon_forgotten() -> None:
    pacer = Pacer(CONFIG)
    pacer.observe(step(40), 30.0)
    assert pacer.prompt_budget(1) == 20
    for _ in range(4):
        pacer.observe(step(pacer.prompt_budget(1)), 0.02)
    assert pacer.prompt_budget(1) >= 40


def test_a_pause_while_others_decode_lets_no_prompt_run_away() -> None:
    pacer = Pacer(replace(CONFIG, step_overhead=9.0, token_seconds=0.001))
    pacer.observe(Batch(rows=[DECODING]), 30.0)
    for _ in range(10):
        num_tokens = pacer.prompt_budget(1)
        pacer.observe(step(num_tokens), 0.01 + num_tokens * 0.001)
    assert pacer.prompt_budget(1) <= 40


def test_the_smallest_budget_grows() -> None:
    """A piece of one token would not be seen to be a piece of a prompt."""
    pacer = Pacer(replace(CONFIG, prompt_budget=1))
    for _ in range(10):
        pacer.observe(step(pacer.prompt_budget(1)), 0.02)
    assert pacer.prompt_budget(1) > 100


def test_prompts_get_as_much_time_as_decoding_takes_at_least() -> None:
    """32 sequences take 80 ms, more than a step should: prompts get as much again."""
    pacer = Pacer(replace(CONFIG, step_overhead=8.0))
    for _ in range(50):
        pacer.observe(Batch(rows=[DECODING] * 32), 0.08)
    for _ in range(50):
        num_tokens = pacer.prompt_budget(32)
        seconds = 0.08 + num_tokens * 0.0005
        pacer.observe(step(num_tokens, num_decoding=32), seconds)
    assert seconds == pytest.approx(0.16, rel=0.1)
    for _ in range(50):  # with fewer of them the step is short again
        num_tokens = pacer.prompt_budget(4)
        seconds = 0.024 + num_tokens * 0.0005
        pacer.observe(step(num_tokens, num_decoding=4), seconds)
    assert seconds == pytest.approx(0.05, rel=0.1)


def test_what_says_nothing_changes_nothing() -> None:
    pacer = Pacer(CONFIG)
    pacer.observe(step(300, num_decoding=0), 1.0)
    pacer.observe(step(5), 0.001)
    pacer.observe(Batch(rows=[DECODING]), 1.0)
    drafts = ScheduledRow(0, 9, 9, [1] * 9, 3, [], sample=True, num_drafts=8)
    pacer.observe(Batch(rows=[drafts] * 5), 1.0)
    assert pacer.prompt_budget(1) == 40


def test_it_never_stops_and_never_exceeds_a_step() -> None:
    pacer = Pacer(CONFIG)
    for seconds, limit in ((9.0, 16), (0.0, 512)):
        for _ in range(40):
            pacer.observe(step(pacer.prompt_budget(1)), seconds)
        assert pacer.prompt_budget(1) == limit


def test_a_long_prompt_beside_others_comes_in_pieces() -> None:
    runner = FakeRunner(CONFIG.num_blocks, CONFIG.block_size, CONFIG.max_num_seqs)
    # So much time that the budget is not changed by how fast this machine is.
    core = EngineCore(runner, replace(CONFIG, target_step_seconds=1e-12, prompt_budget=16))
    core.add(Request("short", [1, 2, 3], SamplingParams(max_tokens=30)))
    core.step()
    core.add(Request("long", list(range(90)), SamplingParams(max_tokens=2)))
    core.add(Request("other", list(range(50, 80)), SamplingParams(max_tokens=2)))
    while core.has_work:
        core.step()
    beside = [
        sum(row.num_tokens for row in batch.rows if row.num_tokens > 1)
        for batch in runner.batches[1:]
        if any(row.row == batch.rows[0].row and row.num_tokens == 1 for row in batch.rows)
    ]
    assert max(beside) == 16
    assert sum(beside) >= 90


class Clock:
    """A runner whose steps take made-up times: `seconds(index of the step)` and so much a token."""

    max_launches = 1

    def __init__(self, seconds: Callable[[int], float] = lambda index: 0.010) -> None:
        self.now = 0.0
        self.num_launches = 0
        self._seconds = seconds
        self._runner = FakeRunner(CONFIG.num_blocks, CONFIG.block_size, CONFIG.max_num_seqs)

    def launch(self, batch: Batch) -> FakeHandle:
        is_prompt = len(batch.rows) == 1 and batch.rows[0].num_tokens > 1
        self.now += self._seconds(self.num_launches)
        self.now += (0.0005 if is_prompt else 0.001) * batch.num_tokens
        self.num_launches += 1
        return self._runner.launch(batch)


def calibrated(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> SchedulerConfig:
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock.now)
    return calibrate(clock, CONFIG)


def test_what_a_step_costs_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    limits = calibrated(monkeypatch, clock)
    assert limits.step_overhead == pytest.approx(10.0)
    assert limits.prompt_budget == pytest.approx((0.05 - 0.011) / 0.0005, abs=2)
    assert limits.token_seconds == pytest.approx(0.001)
    assert calibrate(clock, replace(CONFIG, target_step_seconds=None)).step_overhead == 6.0


@pytest.mark.parametrize("first", range(0, 21, 3))
def test_a_machine_that_is_busy_for_a_moment_is_not_taken_for_a_slow_one(
    monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """A third of all steps takes a tenth of a second longer."""
    limits = calibrated(monkeypatch, Clock(lambda i: 0.11 if first <= i < first + 7 else 0.01))
    assert limits.step_overhead == pytest.approx(10.0)
    assert limits.prompt_budget == pytest.approx((0.05 - 0.011) / 0.0005, abs=2)
    assert limits.token_seconds == pytest.approx(0.001)


def test_a_machine_that_is_always_busy_leaves_the_proportions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Now and then it is free, for each kind of step at another time."""

    class Shared(Clock):
        def launch(self, batch: Batch) -> FakeHandle:
            before = self.now
            handle = super().launch(batch)
            slowness = 1 + 3 * (self.num_launches % 5 != 0)
            self.now = before + (self.now - before) * slowness
            return handle

    limits = calibrated(monkeypatch, Shared())
    assert limits.step_overhead == pytest.approx(10.0)
    assert limits.token_seconds == pytest.approx(0.004)


def test_steps_that_are_long_anyhow_have_room_for_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much time as decoding takes alone, see `Pacer`."""
    limits = calibrated(monkeypatch, Clock(lambda index: 0.199))
    assert limits.prompt_budget == pytest.approx(0.2 / 0.0005, rel=0.02)


@pytest.mark.parametrize("several_seconds", [0.001, 3.0])
def test_what_cannot_be_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, several_seconds: float
) -> None:
    """16 sequences as fast as one, or slower than one after the other."""

    class Odd(Clock):
        def launch(self, batch: Batch) -> FakeHandle:
            before = self.now
            handle = super().launch(batch)
            if len(batch.rows) > 1:
                self.now = before + several_seconds
            return handle

    limits = calibrated(monkeypatch, Odd())
    assert limits.step_overhead == pytest.approx(CONFIG.step_overhead)
    assert limits.token_seconds == pytest.approx(0.011 / 7)
    assert limits.prompt_budget is not None and 16 <= limits.prompt_budget <= 512


def test_a_slow_engine_does_not_measure_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = Clock(), Clock(lambda index: 5.0)
    calibrated(monkeypatch, quick)
    calibrated(monkeypatch, slow)
    assert slow.num_launches == 9 < quick.num_launches


def test_the_core_tells_how_long_its_steps_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a launch returns when all is done, as on the CPU."""
    clock = Clock()
    monkeypatch.setattr(core_module.time, "monotonic", lambda: clock.now)
    core = EngineCore(clock, replace(CONFIG, prompt_budget=100))
    core.add(Request("short", [1, 2, 3], SamplingParams(max_tokens=90)))
    core.step()
    core.add(Request("long", [i % 90 for i in range(700)], SamplingParams(max_tokens=2)))
    before, times = clock.now, []
    while core.has_work:
        core.step()
        times.append(clock.now - before)
        before = clock.now
    # 10 ms and 1 ms for each token: 100 at first, then half as many.
    assert times[0] > 0.1
    assert max(times[3:]) < 0.06


def test_a_tiny_engine_is_calibrated_too() -> None:
    config = replace(CONFIG, num_blocks=3, max_num_seqs=2, max_model_len=6)
    runner = FakeRunner(config.num_blocks, config.block_size, config.max_num_seqs)
    limits = calibrate(runner, config)
    assert limits.prompt_budget is not None and limits.prompt_budget >= 1
    assert 0 <= limits.step_overhead <= 100
    one = replace(config, max_num_seqs=1)
    assert calibrate(runner, one) == one
