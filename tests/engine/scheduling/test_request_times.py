"""When a choice came to its first step, and what of its prompt was looked up in the cache."""

from __future__ import annotations

import time

import pytest
from fake_runner import FakeRunner

from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import ChoiceOutput, Request, SamplingParams


def core_of(max_num_seqs: int, enable_prefix_caching: bool = True) -> EngineCore:
    config = SchedulerConfig(
        num_blocks=32,
        block_size=4,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=64,
        max_model_len=64,
        enable_prefix_caching=enable_prefix_caching,
    )
    return EngineCore(FakeRunner(32, 4, max_num_seqs), config)


def run(core: EngineCore) -> dict[str, list[ChoiceOutput]]:
    outputs: dict[str, list[ChoiceOutput]] = {}
    while core.has_work:
        for output in core.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def test_the_first_output_says_when_its_choice_was_put_into_a_step() -> None:
    core = core_of(max_num_seqs=1)
    for request_id in ("first", "second"):
        core.add(Request(request_id, [1, 2, 3], SamplingParams(max_tokens=3)))
    added_at = time.monotonic()
    time.sleep(0.02)
    core.step()
    time.sleep(0.02)
    later = time.monotonic()
    outputs = run(core)
    ended_at = time.monotonic()
    second, *rest = outputs["second"]
    assert second.started_at is not None
    assert later <= second.started_at <= ended_at  # it had to wait for the other's place
    assert all(output.started_at is None for output in rest)
    core.add(Request("third", [1], SamplingParams(max_tokens=1)))
    [output] = core.step()
    assert output.started_at is not None
    assert output.started_at - added_at >= 0.04


def test_a_preempted_choice_keeps_its_time() -> None:
    config = SchedulerConfig(
        num_blocks=8, block_size=4, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=32
    )
    core = EngineCore(FakeRunner(8, 4, 4), config)
    for number in range(3):
        core.add(Request(f"{number}", [number] * 7, SamplingParams(max_tokens=20)))
    started = time.monotonic()
    core.step()
    stepped = time.monotonic()
    sequences = list(core.scheduler.running)
    times = [sequence.started_at for sequence in sequences]
    assert all(moment is not None and started <= moment <= stepped for moment in times)
    run(core)
    assert core.stats().num_preemptions > 0
    assert [sequence.started_at for sequence in sequences] == times


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_each_prompt_is_looked_up_once(enable_prefix_caching: bool) -> None:
    core = core_of(4, enable_prefix_caching)
    prompt = list(range(9))
    core.add(Request("a", prompt, SamplingParams(max_tokens=1), n=3))
    run(core)
    core.add(Request("b", prompt, SamplingParams(max_tokens=1)))
    core.add(Request("c", prompt, SamplingParams(max_tokens=1, prompt_logprobs=0)))
    run(core)
    stats = core.stats()
    # Prompt log-probabilities need every position computed: nothing is looked up for them.
    assert stats.num_looked_up_tokens == (18 if enable_prefix_caching else 0)
    assert stats.num_cached_tokens == (8 if enable_prefix_caching else 0)
    assert stats.num_prompt_tokens == 27
