"""A step that raises: who is refused, who goes on, and when the engine gives up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_runner import VOCAB_SIZE, FakeRunner, expected_tokens

from engine.batch import Batch
from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import ChoiceOutput, FinishReason, Request, SamplingParams
from engine.scheduling.faults import (
    MAX_UNEXPLAINED,
    NUM_GOOD_STEPS,
    OUT_OF_MEMORY,
    STEP_FAILED,
    is_out_of_memory,
)

POISON = VOCAB_SIZE
BLOCK_SIZE = 4
CONFIG = SchedulerConfig(
    num_blocks=256,
    block_size=BLOCK_SIZE,
    max_num_seqs=32,
    max_num_batched_tokens=64,
    max_model_len=128,
    max_drafts=4,
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def make_core(
    fault: Callable[[Batch], Exception | None], max_launches: int = 1, in_wait: bool = False
) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(CONFIG.num_blocks, BLOCK_SIZE, CONFIG.max_num_seqs)
    runner.fault = fault
    runner.raises_in_wait = in_wait
    return EngineCore(runner, CONFIG, max_launches), runner


def make_request(name: str, prompt: list[int], max_tokens: int = 12, n: int = 1) -> Request:
    return Request(name, prompt, SamplingParams(seed=len(name), max_tokens=max_tokens), n=n)


def run(core: EngineCore, num_steps: int = 2000) -> list[ChoiceOutput]:
    outputs = []
    for _ in range(num_steps):
        if not core.has_work:
            break
        outputs += core.step()
        core.scheduler.check_integrity()
    return outputs


def tokens(outputs: list[ChoiceOutput], name: str, index: int = 0) -> list[int]:
    mine = [o for o in outputs if (o.request_id, o.index) == (name, index)]
    return [token_id for output in mine for token_id in output.token_ids]


def errors(outputs: list[ChoiceOutput]) -> list[tuple[str, int]]:
    return [(o.request_id, o.index) for o in outputs if o.finish_reason is FinishReason.ERROR]


def is_poisoned(batch: Batch) -> Exception | None:
    found = any(POISON in row.token_ids for row in batch.rows)
    return ValueError("poison") if found else None


@pytest.mark.parametrize("in_wait", [False, True])
@pytest.mark.parametrize("max_launches", [1, 3])
@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_poisoned_request_among_sixteen(place: int, max_launches: int, in_wait: bool) -> None:
    core, runner = make_core(is_poisoned, max_launches, in_wait)
    good = [make_request(f"r{i}", [i, 1, 2, 3, 4, 5], max_tokens=20) for i in range(15)]
    outputs = []
    for request in good[:place]:
        core.add(request)
    outputs += run(core, 5)
    core.add(make_request("bad", [9, 9, POISON, 9], n=2))
    for request in good[place:]:
        core.add(request)
    outputs += run(core)
    assert not core.has_work
    assert errors(outputs) == [("bad", 0), ("bad", 1)]
    assert {o.error for o in outputs if o.finish_reason is FinishReason.ERROR} == {STEP_FAILED}
    for request in good:
        assert tokens(outputs, request.request_id) == expected_tokens(request, 0)
    bad_batches = [batch for batch in runner.batches if is_poisoned(batch)]
    assert len(bad_batches) <= 6, "halving finds one among sixteen in five steps"
    assert core.stats().num_blocks_used == 0


def test_three_poisoned_requests_are_all_found() -> None:
    core, _ = make_core(is_poisoned)
    good = [make_request(f"r{i}", [i, 2, 3]) for i in range(10)]
    for i, request in enumerate(good):
        core.add(request)
        if i % 3 == 0:
            core.add(make_request(f"bad{i}", [POISON, i]))
    outputs = run(core)
    assert sorted(errors(outputs)) == [("bad0", 0), ("bad3", 0), ("bad6", 0), ("bad9", 0)]
    for request in good:
        assert tokens(outputs, request.request_id) == expected_tokens(request, 0)


def test_nothing_of_a_failed_step_is_found_in_the_cache() -> None:
    """The same prompt again, after the pages of a step that raised were given back."""
    fails = [True]
    core, runner = make_core(lambda batch: ValueError() if fails and fails.pop() else None)
    prompt = list(range(20))
    core.add(make_request("a", prompt))
    core.add(make_request("b", [*prompt, 1]))
    core.step()
    core.abort("a")
    outputs = run(core)
    assert tokens(outputs, "b") == expected_tokens(make_request("b", [*prompt, 1]), 0)
    assert runner.batches[1].rows[0].start == 0


@pytest.mark.parametrize("max_launches", [1, 2])
def test_a_failure_by_chance_harms_nobody(max_launches: int) -> None:
    core, runner = make_core(
        lambda batch: ValueError() if len(runner.batches) in (3, 40) else None, max_launches
    )
    requests = [make_request(f"r{i}", [i, 2, 3], max_tokens=60) for i in range(8)]
    for request in requests:
        core.add(request)
    outputs = run(core)
    assert not errors(outputs)
    for request in requests:
        assert tokens(outputs, request.request_id) == expected_tokens(request, 0)


def test_what_only_large_steps_do_makes_steps_smaller_for_a_while() -> None:
    core, runner = make_core(lambda batch: ValueError() if len(batch.rows) > 9 else None)
    requests = [make_request(f"r{i}", [i, 2, 3], max_tokens=40) for i in range(12)]
    for request in requests:
        core.add(request)
    outputs = run(core)
    assert not core.has_work
    assert not errors(outputs)
    for request in requests:
        assert tokens(outputs, request.request_id) == expected_tokens(request, 0)


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_makes_steps_smaller_until_they_fit(error: Exception) -> None:
    core, runner = make_core(lambda batch: error if batch.num_tokens > 7 else None)
    requests = [make_request(f"r{i}", [i] * 30, max_tokens=10) for i in range(10)]
    for request in requests:
        core.add(request)
    outputs = run(core)
    assert not errors(outputs)
    for request in requests:
        assert tokens(outputs, request.request_id) == expected_tokens(request, 0)


def test_steps_grow_again_after_good_ones() -> None:
    core, runner = make_core(lambda batch: MemoryError() if len(runner.batches) == 1 else None)
    core.add(make_request("a", [1] * 60, max_tokens=60))
    run(core)
    runner.batches.clear()
    runner.batches.append(Batch())
    core.add(make_request("b", [2] * 64, max_tokens=1))
    run(core)
    for name in ("c", "cc"):  # the second growth takes twice as many steps
        core.add(make_request(name, [3] * 20, max_tokens=NUM_GOOD_STEPS))
        run(core)
    assert runner.batches[1].num_tokens == CONFIG.max_num_batched_tokens // 2 - 2
    runner.batches.clear()
    runner.batches.append(Batch())
    core.add(make_request("d", [4] * 64, max_tokens=1))
    run(core)
    assert runner.batches[1].num_tokens == CONFIG.max_num_batched_tokens


def test_what_takes_longer_than_the_steps_until_they_grow_comes_to_an_end() -> None:
    """Each attempt at a larger step voids what was computed, and the cache is not read for it."""
    core, _ = make_core(lambda batch: MemoryError() if batch.num_tokens > 1 else None)
    sampling = SamplingParams(max_tokens=2, prompt_logprobs=0)
    request = Request("long", [1] * (NUM_GOOD_STEPS + 40), sampling)
    core.add(request)
    outputs = run(core)
    assert tokens(outputs, "long") == expected_tokens(request, 0)
    assert core.stats().num_failed_steps < 20


def test_a_request_that_fits_in_no_memory_is_refused() -> None:
    core, _ = make_core(
        lambda batch: MemoryError() if any(5 in row.token_ids for row in batch.rows) else None
    )
    core.add(make_request("large", [5] * 20))
    core.add(make_request("small", [1, 2, 3], max_tokens=4))
    outputs = run(core)
    [failed] = [o for o in outputs if o.finish_reason is FinishReason.ERROR]
    assert (failed.request_id, failed.error) == ("large", OUT_OF_MEMORY)
    small = make_request("small", [1, 2, 3], max_tokens=4)
    assert tokens(outputs, "small") == expected_tokens(small, 0)


def test_a_broken_engine_blames_nobody() -> None:
    """The step fails with each request alone, and with none at all."""
    core, _ = make_core(lambda batch: ValueError("the device is gone"))
    for i in range(4):
        core.add(make_request(f"r{i}", [i, 2]))
    outputs = []
    with pytest.raises(ValueError, match="the device is gone"):
        for _ in range(20):
            outputs += core.step()
    assert not outputs


def test_failures_that_nothing_explains_end_at_some_time() -> None:
    """One request, each of whose steps fails when it is tried for the first time."""
    seen: set[int] = set()

    def fault(batch: Batch) -> Exception | None:
        [row] = batch.rows
        end = row.start + row.num_tokens
        is_new = end > max(seen, default=0)
        seen.add(end)
        return ValueError("by chance") if is_new else None

    core, runner = make_core(fault)
    core.add(make_request("a", [1, 2], max_tokens=100))
    with pytest.raises(ValueError, match="by chance"):
        run(core)
    assert MAX_UNEXPLAINED < len(seen) < 2 * MAX_UNEXPLAINED


def test_aborted_while_it_is_looked_for() -> None:
    core, _ = make_core(is_poisoned)
    for i in range(4):
        core.add(make_request(f"r{i}", [i, 2], max_tokens=50))
    core.add(make_request("bad", [POISON]))
    core.step()
    assert core.is_isolating
    core.abort("bad")
    core.abort("r0")
    outputs = run(core)
    assert not errors(outputs)
    assert tokens(outputs, "r3") == expected_tokens(make_request("r3", [3, 2], max_tokens=50), 0)


def test_those_who_leave_while_they_are_looked_for_do_not_end_the_engine() -> None:
    """Whoever gave up may have been the one: the failure is not one that nobody explains."""
    core, _ = make_core(is_poisoned)
    good = make_request("good", [1, 2], max_tokens=100)
    core.add(good)
    outputs = core.step()
    for i in range(2 * MAX_UNEXPLAINED):
        core.add(make_request(f"bad{i}", [POISON]))
        while not core.is_isolating:
            outputs += core.step()
        core.abort(f"bad{i}")
        while core.is_isolating:
            outputs += core.step()
    outputs += run(core)
    assert tokens(outputs, "good") == expected_tokens(good, 0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
