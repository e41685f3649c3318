"""Slots by turns, without any work in them."""

from __future__ import annotations

import asyncio

import pytest

from server.fair_slots import FairSlots
from server.wire.errors import ApiError


class Crowd:
    """Who takes slots, and in which order they get them."""

    def __init__(self, num_slots: int, max_waiting: int) -> None:
        self.slots = FairSlots(num_slots, max_waiting)
        self.order: list[str] = []

    async def come(self, *names: str) -> list[asyncio.Task[None]]:
        """One after the other; the tenant is the first letter of a name."""
        tasks = []
        for name in names:
            tasks.append(asyncio.create_task(self._take(name)))
            await asyncio.sleep(0)
        return tasks

    async def serve(self, count: int) -> list[str]:
        """Free so many slots; who has got one since the last time."""
        for _ in range(count):
            self.slots.free()
            await asyncio.sleep(0)
        order, self.order = self.order, []
        return order

    async def _take(self, name: str) -> None:
        await self.slots.take(name[0])
        self.order.append(name)


def refused(tasks: list[asyncio.Task[None]]) -> list[bool]:
    for task in tasks:
        if task.done() and (error := task.exception()) is not None:
            assert isinstance(error, ApiError)
            assert (error.status, error.code) == (503, "server_is_overloaded")
    return [task.done() and task.exception() is not None for task in tasks]


async def test_one_does_not_wait_for_the_many_of_another() -> None:
    crowd = Crowd(2, 100)
    await crowd.come(*(f"a{number}" for number in range(50)), "b0", "c0", "b1")
    assert crowd.order == ["a0", "a1"]
    assert await crowd.serve(7) == ["a0", "a1", "a2", "b0", "c0", "a3", "b1", "a4", "a5"]
    assert await crowd.serve(44) == [f"a{number}" for number in range(6, 50)]


async def test_slots_that_are_free_are_taken_at_once() -> None:
    crowd = Crowd(2, 1)
    for number in range(3):
        await crowd.come(f"a{number}", f"b{number}")
        assert await crowd.serve(2) == [f"a{number}", f"b{number}"]


async def test_a_full_queue_makes_room_for_who_has_less_in_it() -> None:
    crowd = Crowd(1, 4)
    many = await crowd.come("a0", "a1", "a2", "a3", "a4", "a5")
    assert refused(many) == [False] * 5 + [True]
    few = await crowd.come("b0", "b1", "b2")
    assert refused(many) == [False] * 3 + [True] * 3
    assert refused(few) == [False, False, True], "as many as the other has"
    assert await crowd.serve(4) == ["a0", "a1", "b0", "a2", "b1"]


async def test_nobody_pushes_out_to_have_more_than_the_other() -> None:
    crowd = Crowd(1, 3)
    many = await crowd.come("a0", "a1", "a2", "a3")
    few = await crowd.come("b0", "b1")
    assert refused(many) == [False] * 3 + [True]
    assert refused(few) == [False, True]


async def test_who_has_left_is_not_pushed_out() -> None:
    crowd = Crowd(1, 2)
    tasks = await crowd.come("a0", "a1", "a2")
    newcomer = asyncio.create_task(crowd._take("b0"))
    tasks[2].cancel()  # does not know it yet as the newcomer takes its place
    await asyncio.sleep(0)
    assert refused([newcomer]) == [False]
    assert await crowd.serve(2) == ["a0", "a1", "b0"]


async def test_who_leaves_makes_room() -> None:
    crowd = Crowd(1, 2)
    first = await crowd.come("a0", "a1", "b0")
    for task in first[1:]:
        task.cancel()
    second = await crowd.come("a2", "c0")
    assert refused(second) == [False, False]
    assert await crowd.serve(3) == ["a0", "a2", "c0"]
    await crowd.come("a3")
    assert crowd.order == ["a3"], "all slots are free again"


async def test_a_slot_is_not_lost_with_who_leaves_as_it_comes() -> None:
    crowd = Crowd(1, 3)
    tasks = await crowd.come("a0", "a1", "a2")
    crowd.slots.free()
    tasks[1].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert crowd.order == ["a0", "a2"]
    tasks = await crowd.come("a3")
    tasks[0].cancel()
    crowd.slots.free()  # finds one that has given up and does not know it yet
    await asyncio.sleep(0)
    await crowd.come("a4")
    assert crowd.order == ["a0", "a2", "a4"]


async def test_who_leaves_as_it_is_pushed_out_frees_no_slot() -> None:
    crowd = Crowd(1, 2)
    tasks = await crowd.come("a0", "a1", "a2", "b0")
    tasks[2].cancel()  # pushed out by b0, and does not know it yet
    await asyncio.gather(tasks[2], return_exceptions=True)
    assert crowd.order == ["a0"]
    assert await crowd.serve(2) == ["a0", "a1", "b0"]


async def test_the_end() -> None:
    crowd = Crowd(1, 3)
    tasks = await crowd.come("a0", "a1", "b0")
    crowd.slots.close()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), *[asyncio.CancelledError] * 2]
    with pytest.raises(ApiError):
        for task in await crowd.come("a2", "a3", "a4", "a5"):
            if task.done():
                task.result()
