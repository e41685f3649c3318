"""Policy on tiny pools: what a step holds, who shares, who waits, who gives way."""

from __future__ import annotations

import pytest
from fake_runner import FAILURE, FakeRunner, expected_tokens

from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import ChoiceOutput, FinishReason, Request, SamplingParams


def _core(
    num_blocks: int = 32,
    max_num_seqs: int = 4,
    max_num_batched_tokens: int = 64,
    max_launches: int = 1,
    enable_prefix_caching: bool = True,
) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(num_blocks, 4, max_num_seqs)
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=4,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=min(64, num_blocks * 4),
        enable_prefix_caching=enable_prefix_caching,
    )
    return EngineCore(runner, config, max_launches), runner


def _request(
    request_id: str,
    prompt: list[int],
    max_tokens: int = 3,
    n: int = 1,
    salt: str = "",
    priority: int = 0,
) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens)
    return Request(request_id, prompt, sampling, n=n, cache_salt=salt, priority=priority)


def _finish(core: EngineCore) -> dict[tuple[str, int], list[ChoiceOutput]]:
    outputs: dict[tuple[str, int], list[ChoiceOutput]] = {}
    while core.has_work:
        for output in core.step():
            outputs.setdefault((output.request_id, output.index), []).append(output)
        core.scheduler.check_integrity()
    return outputs


def _tokens(outputs: list[ChoiceOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def _shape(runner: FakeRunner, batch: int) -> list[tuple[int, int]]:
    return [(row.start, row.num_tokens) for row in runner.batches[batch].rows]


def test_a_prompt_is_cut_into_chunks_of_the_budget() -> None:
    core, runner = _core(max_num_batched_tokens=5)
    request = _request("a", list(range(12)))
    core.add(request)
    outputs = _finish(core)
    assert [_shape(runner, i) for i in range(3)] == [[(0, 5)], [(5, 5)], [(10, 2)]]
    assert [batch.rows[0].sample for batch in runner.batches[:3]] == [False, False, True]
    assert _tokens(outputs["a", 0]) == expected_tokens(request, 0)


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    core, runner = _core(max_num_batched_tokens=6)
    core.add(_request("a", [1, 2], max_tokens=8))
    core.step()
    core.add(_request("b", list(range(20, 32))))
    core.step()
    core.step()
    assert _shape(runner, 1) == [(2, 1), (0, 5)]
    assert _shape(runner, 2) == [(3, 1), (5, 5)]
    _finish(core)


def test_pages_go_to_the_runner_once_and_in_order() -> None:
    core, runner = _core()
    core.add(_request("a", list(range(7)), max_tokens=4))
    _finish(core)
    new_block_ids = [batch.rows[0].new_block_ids for batch in runner.batches]
    assert new_block_ids == [[0, 1], [], [2], []]


def test_an_equal_prefix_is_found_again() -> None:
    core, runner = _core()
    core.add(_request("a", list(range(10))))
    first = _finish(core)
    core.add(_request("b", [*range(8), 99]))
    second = _finish(core)
    assert first["a", 0][0].num_cached_tokens == 0
    assert second["b", 0][0].num_cached_tokens == 8
    assert runner.batches[-3].rows[0].start == 8
    assert core.stats().num_cached_tokens == 8


def test_a_wholly_cached_prompt_still_computes_its_last_block() -> None:
    core, runner = _core()
    core.add(_request("a", list(range(8)), max_tokens=1))
    _finish(core)
    core.add(_request("b", list(range(8)), max_tokens=1))
    assert _finish(core)["b", 0][0].num_cached_tokens == 4
    assert _shape(runner, -1) == [(4, 4)]


def test_generated_tokens_are_found_again() -> None:
    core, _ = _core()
    request = _request("a", [1, 2, 3], max_tokens=8)
    core.add(request)
    generated = _tokens(_finish(core)["a", 0])
    core.add(_request("b", [1, 2, 3, *generated]))
    assert _finish(core)["b", 0][0].num_cached_tokens == 8


def test_another_salt_does_not_find_it() -> None:
    core, _ = _core()
    core.add(_request("a", list(range(10)), salt="x"))
    _finish(core)
    core.add(_request("b", list(range(10)), salt="y"))
    assert _finish(core)["b", 0][0].num_cached_tokens == 0


def test_an_equal_prompt_waits_for_the_one_that_is_being_computed() -> None:
    core, runner = _core(max_num_batched_tokens=8)
    core.add(_request("a", list(range(16))))
    core.add(_request("b", list(range(16))))
    outputs = _finish(core)
    assert [_shape(runner, i) for i in range(3)] == [[(0, 8)], [(8, 8)], [(16, 1), (12, 4)]]
    assert outputs["b", 0][0].num_cached_tokens == 12


def test_the_one_that_waits_goes_on_when_the_other_is_aborted() -> None:
    core, _ = _core(max_num_batched_tokens=8)
    core.add(_request("a", list(range(16))))
    request = _request("b", list(range(16)))
    core.add(request)
    core.step()
    core.abort("a")
    outputs = _finish(core)
    assert _tokens(outputs["b", 0]) == expected_tokens(request, 0)
    assert outputs["b", 0][0].num_cached_tokens == 8


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_choices_share_the_prompt_and_copy_the_partial_page(enable_prefix_caching: bool) -> None:
    core, runner = _core(enable_prefix_caching=enable_prefix_caching)
    request = _request("a", list(range(10)), n=3)
    core.add(request)
    outputs = _finish(core)
    assert _shape(runner, 0) == [(0, 10)]
    assert _shape(runner, 1) == [(10, 1), (9, 1), (9, 1)]
    assert runner.batches[1].copies == [(2, 3), (2, 4)]
    assert [row.new_block_ids for row in runner.batches[1].rows] == [[], [0, 1, 3], [0, 1, 4]]
    for index in range(3):
        assert _tokens(outputs["a", index]) == expected_tokens(request, index)
    assert len({tuple(_tokens(outputs["a", index])) for index in range(3)}) == 3


def test_more_choices_than_rows_come_one_after_the_other() -> None:
    core, _ = _core(max_num_seqs=2)
    request = _request("a", list(range(9)), n=5)
    core.add(request)
    outputs = _finish(core)
    for index in range(5):
        assert _tokens(outputs["a", index]) == expected_tokens(request, index)


def test_out_of_pages_the_youngest_gives_way_and_loses_nothing() -> None:
    core, _ = _core(num_blocks=8)
    requests = [_request(name, [ord(name)] * 6, max_tokens=14) for name in "abc"]
    for request in requests:
        core.add(request)
    outputs = _finish(core)
    assert core.stats().num_preemptions > 0
    for request in requests:
        assert _tokens(outputs[request.request_id, 0]) == expected_tokens(request, 0)
    order = [request_id for request_id, _ in outputs]
    assert order == ["a", "b", "c"]


def test_lower_priorities_get_in_first_and_equals_as_they_came() -> None:
    core, _ = _core(max_num_seqs=1)
    for name, priority in [("a", 0), ("b", 5), ("c", -2), ("d", 5), ("e", -2)]:
        core.add(_request(name, [ord(name)], priority=priority))
    assert [request_id for request_id, _ in _finish(core)] == ["c", "e", "a", "b", "d"]


def test_a_better_priority_does_not_push_out_who_runs() -> None:
    core, _ = _core(max_num_seqs=1)
    core.add(_request("a", [1], max_tokens=5, priority=9))
    core.step()
    core.add(_request("b", [2], priority=0))
    assert [request_id for request_id, _ in _finish(core)] == ["a", "b"]
    assert core.stats().num_preemptions == 0


def test_out_of_pages_the_worst_priority_gives_way_though_it_is_older() -> None:
    core, _ = _core(num_blocks=8)
    requests = [
        _request("old", [1] * 6, max_tokens=20, priority=1),
        _request("new", [2] * 6, max_tokens=20, priority=0),
    ]
    outputs: dict[str, list[int]] = {"old": [], "new": []}
    finished = []
    core.add(requests[0])
    for request in [None, None, requests[1], *[None] * 60]:
        if request is not None:
            core.add(request)
        for output in core.step():
            outputs[output.request_id] += output.token_ids
            finished += [output.request_id] if output.finish_reason else []
        core.scheduler.check_integrity()
    assert finished == ["new", "old"]
    assert core.stats().num_preemptions == 1
    for request in requests:
        assert outputs[request.request_id] == expected_tokens(request, 0)


def test_a_finished_choice_may_cost_one_late_row_but_no_token() -> None:
    core, runner = _core(max_launches=2)
    request = _request("a", [5, 6], max_tokens=10)
    stop = expected_tokens(request, 0)[3]
    sampling = SamplingParams(max_tokens=10, stop_token_ids=(stop,))
    core.add(Request("a", [5, 6], sampling))
    outputs = _finish(core)["a", 0]
    assert _tokens(outputs) == expected_tokens(request, 0)[:4]
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert outputs[-1].stop_token_id == stop
    assert len(runner.batches) == 5


def test_unknown_tokens_are_left_to_the_runner_in_overlapped_launches() -> None:
    core, runner = _core(max_launches=2)
    core.add(_request("a", [5, 6], max_tokens=3))
    _finish(core)
    assert [batch.rows[0].token_ids for batch in runner.batches] == [[5, 6], [], []]
    assert len(runner.batches) == 3


def test_abort_frees_pages_at_once_or_after_the_launch_under_way() -> None:
    for max_launches in (1, 2):
        core, _ = _core(max_launches=max_launches)
        core.add(_request("a", list(range(9)), max_tokens=30))
        core.step()
        core.abort("a")
        core.abort("a")
        core.abort("nobody", 3)
        core.step()
        assert core.stats().num_blocks_used == 0
        assert not core.has_work


def test_a_queued_request_that_is_aborted_is_never_computed() -> None:
    core, runner = _core(max_num_seqs=1)
    core.add(_request("a", [1], max_tokens=2))
    core.add(_request("b", [2], max_tokens=2))
    core.step()
    core.abort("b")
    _finish(core)
    assert sum(len(batch.starts) for batch in runner.batches) == 1


def test_a_failing_row_fails_alone() -> None:
    core, runner = _core()
    runner.fail_token = 77
    core.add(_request("bad", [77, 1]))
    good = _request("good", [1, 2])
    core.add(good)
    outputs = _finish(core)
    (failed,) = outputs["bad", 0]
    assert failed.finish_reason is FinishReason.ERROR
    assert failed.error == FAILURE
    assert _tokens(outputs["good", 0]) == expected_tokens(good, 0)


@pytest.mark.parametrize("max_launches", [1, 2])
def test_what_a_failing_row_computed_is_not_found_in_the_cache(max_launches: int) -> None:
    """Its pages may hold what made the numbers invalid, which others need not share."""
    core, runner = _core(max_launches=max_launches)
    prompt = [*range(12), 77]
    core.add(_request("healthy", prompt[:8]))
    _finish(core)
    runner.fail_token = 77
    core.add(_request("bad", prompt))
    assert _finish(core)["bad", 0][0].error == FAILURE
    runner.fail_token = None
    runner.batches.clear()
    again = _request("again", prompt)
    core.add(again)
    assert _tokens(_finish(core)["again", 0]) == expected_tokens(again, 0)
    assert _shape(runner, 0) == [(0, 13)]


def test_no_tokens_wanted_computes_the_prompt_and_says_length() -> None:
    core, _ = _core()
    core.add(_request("a", list(range(6)), max_tokens=0, n=2))
    outputs = _finish(core)
    for index in range(2):
        (output,) = outputs["a", index]
        assert output.token_ids == []
        assert output.finish_reason is FinishReason.LENGTH


def test_a_sequence_ends_at_the_model_length() -> None:
    core, _ = _core(num_blocks=4)
    core.add(_request("a", list(range(10)), max_tokens=100))
    outputs = _finish(core)["a", 0]
    assert len(_tokens(outputs)) == 6
    assert outputs[-1].finish_reason is FinishReason.LENGTH
