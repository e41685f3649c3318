"""Fair turns among tenants: nobody waits behind another's whole queue, and nobody is starved."""

from __future__ import annotations

from fake_runner import FakeRunner

from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import Request, SamplingParams
from engine.scheduling.turns import Turns


def _core(num_blocks: int = 64, max_num_seqs: int = 4) -> EngineCore:
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=4,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=64,
        max_model_len=64,
    )
    return EngineCore(FakeRunner(num_blocks, 4, max_num_seqs), config)


def _request(
    tenant: str, number: int, max_tokens: int = 3, priority: int = 0, n: int = 1
) -> Request:
    return Request(
        f"{tenant}{number}",
        [ord(tenant), number % 100],
        SamplingParams(max_tokens=max_tokens),
        n=n,
        priority=priority,
        tenant=tenant,
    )


def _finished(core: EngineCore, until: str = "") -> list[str]:
    """Requests in the order of their ends, up to `until` if that is given."""
    order: list[str] = []
    while core.has_work and until not in order[-1:]:
        for output in core.step():
            if output.finish_reason is not None and output.request_id not in order:
                order.append(output.request_id)
        core.scheduler.check_integrity()
    return order[: order.index(until) + 1] if until else order


def test_one_request_does_not_wait_for_500_of_another() -> None:
    core = _core()
    for number in range(500):
        core.add(_request("a", number))
    for _ in range(20):
        core.step()
    num_done = 500 - len(core.scheduler.waiting) - len(core.scheduler.running)
    core.add(_request("b", 0))
    order = _finished(core, "b0")
    # The rows that run already, and those that take a row together with it.
    assert 10 < num_done < 50
    assert len(order) <= 2 * 4


def test_two_queues_are_served_alike() -> None:
    core = _core()
    for number in range(40):
        core.add(_request("a", number))
    for number in range(40):
        core.add(_request("b", number))
    order = _finished(core)
    for end in range(8, 80):
        share = sum(request_id.startswith("b") for request_id in order[:end])
        assert abs(share - end / 2) <= 4, order[:end]


def test_turns_are_measured_in_tokens() -> None:
    core = _core(max_num_seqs=1)
    for number in range(4):
        core.add(_request("a", number, max_tokens=28))
    for number in range(20):
        core.add(_request("b", number, max_tokens=3))
    order = _finished(core)
    assert order[:9] == ["a0", "b0", "b1", "b2", "b3", "b4", "b5", "a1", "b6"]


def test_what_never_ran_costs_its_tenant_nothing() -> None:
    """Else who took back a queue of requests would wait until the others had had as much."""
    core = _core(max_num_seqs=2)
    for number in range(2):
        core.add(_request("c", number, max_tokens=20))
    core.step()
    for number in range(50):
        core.add(_request("a", number, max_tokens=20))
    for number in range(50):
        core.add(_request("b", number, max_tokens=20))
    for number in range(50):
        core.abort(f"a{number}")
    core.add(_request("a", 50))
    order = _finished(core, "a50")
    assert len(order) <= 5, order


def test_what_ran_is_not_given_back() -> None:
    turns = Turns()
    first, second, other = (_request("a", number, max_tokens=10) for number in range(3))
    assert turns.enter(first) == 0
    turns.start(first, 0)
    assert turns.enter(second) == 12
    turns.leave(first)
    assert turns.enter(other) == 24
    turns.leave(second)
    assert turns.enter(_request("a", 3)) == 24


def test_choices_count() -> None:
    turns = Turns()
    assert turns.enter(_request("a", 0, max_tokens=10, n=3)) == 0
    assert turns.enter(_request("a", 1, max_tokens=0)) == 2 + 30
    assert turns.enter(_request("a", 2)) == 32 + 3


def test_the_requests_of_one_tenant_keep_their_order() -> None:
    core = _core(max_num_seqs=1)
    for number in range(12):
        core.add(_request("ab"[number % 2], number))
    order = _finished(core)
    for tenant in "ab":
        numbers = [int(request_id[1:]) for request_id in order if request_id[0] == tenant]
        assert numbers == sorted(numbers)


def test_priorities_come_before_turns() -> None:
    core = _core(max_num_seqs=1)
    for number in range(5):
        core.add(_request("a", number, priority=1))
    core.add(_request("b", 0, priority=2))
    for number in range(5, 10):
        core.add(_request("a", number, priority=0))
    order = _finished(core)
    assert order == [f"a{number}" for number in (5, 6, 7, 8, 9, 0, 1, 2, 3, 4)] + ["b0"]


def test_each_priority_has_turns_of_its_own() -> None:
    """What ran at another priority meanwhile makes no newcomer wait behind a queue."""
    core = _core(max_num_seqs=1)
    for number in range(20):
        core.add(_request("a", number, priority=1))
    for number in range(20):
        core.add(_request("c", number, priority=0))
    _finished(core, "c18")
    core.add(_request("b", 0, priority=1))
    order = _finished(core, "b0")
    assert len(order) <= 4, order


def test_nobody_is_preempted_for_a_newcomer() -> None:
    core = _core(num_blocks=16, max_num_seqs=2)
    for number in range(3):
        core.add(_request("a", number, max_tokens=20))
    core.step()
    running = list(core.scheduler.running)
    core.add(_request("b", 0, max_tokens=20))
    core.step()
    assert core.scheduler.running[: len(running)] == running
    _finished(core)
    assert core.scheduler.num_preemptions == 0


def test_nothing_is_remembered_of_who_is_owed_nothing() -> None:
    turns = Turns()
    first = _request("a", 0)
    turns.enter(first)
    for number in range(5000):
        request = Request(str(number), [1], SamplingParams(max_tokens=1), tenant=str(number))
        turns.start(request, turns.enter(request) + 2)
        turns.leave(request)
    assert len(turns._levels[0].ends) <= 2048
    turns.leave(first)
    assert not turns._levels
