"""Beam searches on tiny pools: pages shared and swapped, beams preempted, groups in each other's
way. The fake runner's candidates depend on every page it reads."""

from __future__ import annotations

import pytest
from fake_runner import (
    FAILURE,
    FakeRunner,
    expected_beams,
    expected_prompt_logprobs,
    expected_tokens,
)

from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import (
    BeamSearch,
    ChoiceOutput,
    FinishReason,
    Request,
    SamplingParams,
    beam_search_blocks,
)

BLOCK_SIZE = 4
Outputs = dict[tuple[str, int], list[ChoiceOutput]]


def _core(
    num_blocks: int = 32,
    max_num_seqs: int = 6,
    max_num_batched_tokens: int = 64,
    max_launches: int = 1,
    enable_prefix_caching: bool = True,
) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(num_blocks, BLOCK_SIZE, max_num_seqs)
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=min(64, num_blocks * BLOCK_SIZE),
        enable_prefix_caching=enable_prefix_caching,
    )
    return EngineCore(runner, config, max_launches), runner


def _beams(
    request_id: str,
    prompt: list[int],
    n: int = 3,
    max_tokens: int = 8,
    stop_token_ids: tuple[int, ...] = (),
    priority: int = 0,
) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=stop_token_ids)
    search = BeamSearch(early_stopping="never")
    return Request(request_id, prompt, sampling, n, priority=priority, beam_search=search)


def _plain(request_id: str, prompt: list[int], max_tokens: int, priority: int = 0) -> Request:
    return Request(request_id, prompt, SamplingParams(max_tokens=max_tokens), priority=priority)


def _finish(core: EngineCore) -> Outputs:
    outputs: Outputs = {}
    for _ in range(2000):
        if not core.has_work:
            break
        for output in core.step():
            outputs.setdefault((output.request_id, output.index), []).append(output)
        core.scheduler.check_integrity()
    assert not core.has_work, "somebody starves"
    assert core.stats().num_blocks_used == 0
    return outputs


def _check(request: Request, outputs: Outputs) -> None:
    for index, beam in enumerate(expected_beams(request)):
        (output,) = outputs[request.request_id, index]
        assert output.token_ids == beam.token_ids
        assert output.finish_reason is beam.finish_reason
        stopped = beam.finish_reason is FinishReason.STOP
        assert output.stop_token_id == (beam.token_ids[-1] if stopped else None)


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
@pytest.mark.parametrize("num_prompt_tokens", [1, 7, 8, 9])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_alone_it_fits_the_stated_bound_and_computes_nothing_twice(
    n: int, num_prompt_tokens: int, enable_prefix_caching: bool
) -> None:
    for max_tokens in (1, 2, 12, 13):
        request = _beams("a", list(range(num_prompt_tokens)), n, max_tokens)
        num_blocks = beam_search_blocks(num_prompt_tokens, max_tokens, n, BLOCK_SIZE)
        num_blocks = max(num_blocks, -(-(num_prompt_tokens + max_tokens) // BLOCK_SIZE))
        core, runner = _core(num_blocks, n, enable_prefix_caching=enable_prefix_caching)
        core.add(request)
        _check(request, _finish(core))
        assert core.stats().num_preemptions == 0
        num_computed = sum(batch.num_tokens for batch in runner.batches)
        assert num_computed == num_prompt_tokens + n * (max_tokens - 1)


def test_beams_share_full_pages_and_copy_the_partial_one() -> None:
    core, runner = _core()
    request = _beams("a", list(range(10)), n=3, max_tokens=2)
    core.add(request)
    _check(request, _finish(core))
    assert [row.new_block_ids for row in runner.batches[1].rows] == [[], [0, 1, 3], [0, 1, 4]]
    assert runner.batches[1].copies == [(2, 3), (2, 4)]
    assert [(row.start, row.num_tokens) for row in runner.batches[1].rows] == [(10, 1)] * 3


def test_a_beam_that_changes_its_parent_keeps_its_row_and_its_last_page() -> None:
    core, runner = _core()
    request = _beams("a", [5, 6], n=4, max_tokens=12)
    core.add(request)
    _check(request, _finish(core))
    swaps = [batch for batch in runner.batches[2:] if batch.starts]
    assert any(batch.copies for batch in swaps)
    for batch in swaps:
        assert {start.row for start in batch.starts} <= {0, *(row.row for row in batch.rows)}
        assert all(row.num_tokens == 1 for row in batch.rows)


def test_the_bound_is_reached() -> None:
    core, _ = _core()
    core.add(_beams("a", [9] * 6, n=3, max_tokens=3))
    most = 0
    while core.has_work:
        core.step()
        most = max(most, core.stats().num_blocks_used)
    assert most == beam_search_blocks(6, 3, 3, BLOCK_SIZE) == 1 + 3


@pytest.mark.parametrize(
    "request_", [_beams("a", [1], n=7, max_tokens=1), _beams("a", [1], n=6, max_tokens=24)]
)
def test_what_cannot_fit_alone_is_not_taken(request_: Request) -> None:
    core, _ = _core(num_blocks=35)
    assert beam_search_blocks(1, 24, 6, BLOCK_SIZE) == 36
    with pytest.raises(AssertionError, match="must fit"):
        core.add(request_)


@pytest.mark.parametrize("max_launches", [1, 2, 3])
def test_nothing_comes_before_the_end_and_no_launch_before_its_decision(max_launches: int) -> None:
    core, runner = _core(max_launches=max_launches)
    request = _beams("a", list(range(6)), n=3, max_tokens=9)
    core.add(request)
    steps = []
    while core.has_work:
        steps.append(core.step())
    assert not any(steps[:-1])
    assert [output.index for output in steps[-1]] == [0, 1, 2]
    assert len(runner.batches) == 9
    assert all(
        len(row.token_ids) == row.num_tokens for batch in runner.batches for row in batch.rows
    )


@pytest.mark.parametrize("max_launches", [1, 2])
@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_groups_that_hold_what_the_other_needs_give_way(
    max_launches: int, enable_prefix_caching: bool
) -> None:
    num_preemptions = 0
    for num_blocks in range(13, 17):
        core, _ = _core(num_blocks, 12, 16, max_launches, enable_prefix_caching)
        requests = [_beams(name, [ord(name)] * 6, n=4, max_tokens=10) for name in "abcd"]
        for request in requests:
            core.add(request)
        outputs = _finish(core)
        for request in requests:
            _check(request, outputs)
        num_preemptions += core.stats().num_preemptions
    assert num_preemptions > 0


def test_a_group_that_holds_the_rows_another_needs_gives_way() -> None:
    core, _ = _core(max_num_seqs=4)
    requests = [_beams(name, [ord(name)] * 3, n=4, max_tokens=6) for name in "abc"]
    for request in requests:
        core.add(request)
    outputs = _finish(core)
    for request in requests:
        _check(request, outputs)
    assert core.stats().num_preemptions > 0


@pytest.mark.parametrize("max_launches", [1, 2, 3])
@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_in_mixed_company(max_launches: int, enable_prefix_caching: bool) -> None:
    for budget in (2, 5, 64):
        core, _ = _core(14, 5, budget, max_launches, enable_prefix_caching)
        stops = tuple(range(0, 97, 9))
        requests = [
            _plain("p0", [1, 2, 3, 4, 5, 6], 20),
            _beams("b0", [1, 2, 3, 4, 5, 9], 3, 10, stops, priority=1),
            _plain("p1", [1, 2, 3, 4, 7], 12, priority=-1),
            _beams("b1", [1, 2, 3, 4], 4, 9, stops),
            _beams("b2", [8], 2, 14, priority=-1),
        ]
        outputs: Outputs = {}
        for request in requests:
            core.add(request)
            for output in core.step():
                outputs.setdefault((output.request_id, output.index), []).append(output)
        for key, more in _finish(core).items():
            outputs.setdefault(key, []).extend(more)
        for request in requests:
            if request.beam_search is not None:
                _check(request, outputs)
            else:
                found = [i for output in outputs[request.request_id, 0] for i in output.token_ids]
                assert found == expected_tokens(request, 0)


def test_an_error_on_one_beam_fails_all_choices_and_no_neighbour() -> None:
    core, runner = _core()
    request = _beams("bad", [1, 2], n=3, max_tokens=6)
    runner.fail_token = expected_beams(_beams("x", [1, 2], n=3, max_tokens=1))[1].token_ids[0]
    good = _plain("good", [4], 4)
    assert runner.fail_token not in expected_tokens(good, 0)
    core.add(request)
    core.add(good)
    outputs = _finish(core)
    for index in range(3):
        (output,) = outputs["bad", index]
        assert output.finish_reason is FinishReason.ERROR
        assert output.error == FAILURE
    assert len(outputs["good", 0]) == 4


@pytest.mark.parametrize("max_launches", [1, 2])
def test_an_abort_ends_the_whole_search_and_one_choice_of_it_is_none(max_launches: int) -> None:
    for num_steps in range(8):
        core, _ = _core(max_launches=max_launches)
        request = _beams("a", [1, 2, 3], n=3, max_tokens=9)
        core.add(request)
        core.add(_beams("b", [4, 5, 6], n=3, max_tokens=9))
        for _ in range(num_steps):
            core.step()
        core.abort("a", 1)
        core.abort("b")
        core.scheduler.check_integrity()
        outputs = _finish(core)
        assert set(outputs) == {("a", 0), ("a", 1), ("a", 2)}
        _check(request, outputs)


def test_no_tokens_wanted() -> None:
    core, _ = _core()
    core.add(_beams("a", [1, 2, 3], n=3, max_tokens=0))
    for choice in _finish(core).values():
        (output,) = choice
        assert output.token_ids == []
        assert output.finish_reason is FinishReason.LENGTH


def test_what_is_said_of_the_prompt_comes_with_the_first_choice() -> None:
    core, _ = _core()
    prompt = list(range(9))
    core.add(_plain("before", prompt, 1))
    _finish(core)
    core.add(_beams("a", prompt))
    outputs = _finish(core)
    assert [outputs["a", index][0].num_cached_tokens for index in range(3)] == [8, 0, 0]
    sampling = SamplingParams(max_tokens=4, prompt_logprobs=0, logprobs=1)
    request = Request("b", prompt, sampling, 3, beam_search=BeamSearch())
    core.add(request)
    outputs = _finish(core)
    expected = expected_beams(request)
    assert outputs["b", 0][0].prompt_logprobs == expected_prompt_logprobs(request)
    assert [outputs["b", index][0].prompt_logprobs for index in (1, 2)] == [None, None]
    assert [outputs["b", i][0].logprobs for i in range(3)] == [beam.logprobs for beam in expected]
