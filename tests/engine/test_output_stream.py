"""OutputStream by itself."""

from __future__ import annotations

import asyncio
import gc
import random
import sys

import pytest
from engine_children import make_request, read_all

from engine import (
    ChoiceOutput,
    EngineDeadError,
    Failure,
    FinishReason,
    OutputStream,
    Request,
    SlowReaderError,
    TokenLogprobs,
)
from engine.client import MAX_UNREAD_BYTES


def make_stream(*requests: Request) -> tuple[OutputStream, list[tuple[str, int | None]]]:
    aborted: list[tuple[str, int | None]] = []
    return OutputStream(
        list(requests), lambda request_id, index: aborted.append((request_id, index))
    ), aborted


async def test_a_slow_reader_gets_everything_at_once() -> None:
    stream, _ = make_stream(make_request("a", [1], n=2))
    first = ChoiceOutput("a", 0, [1], num_cached_tokens=16, started_at=0.5)
    last = ChoiceOutput("a", 0, [3, 4], FinishReason.STOP, stop_token_id=4, num_preemptions=2)
    for output in (first, ChoiceOutput("a", 1, [2]), last):
        stream.put(output)
    assert await anext(stream) == [
        ChoiceOutput(
            *("a", 0, [1, 3, 4], FinishReason.STOP, 4),
            num_cached_tokens=16,
            started_at=0.5,
            num_preemptions=2,
        ),
        ChoiceOutput("a", 1, [2]),
    ]
    stream.put(ChoiceOutput("a", 1, [4], FinishReason.STOP))
    assert [o.token_ids for o in await anext(stream)] == [[4]]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


def entry(logprob: float, num_top: int = 0) -> TokenLogprobs:
    return TokenLogprobs(logprob, 1, list(range(num_top)), [0.0] * num_top)


async def test_joined_log_probabilities_stay_in_order() -> None:
    stream, _ = make_stream(make_request("a", [1]))
    prompt = [None, entry(-5)]
    stream.put(ChoiceOutput("a", 0, [1], logprobs=[entry(-1)], prompt_logprobs=prompt))
    stream.put(ChoiceOutput("a", 0, [2, 3], logprobs=[entry(-2), entry(-3)]))
    error = Failure("made_up", "a sentence")
    stream.put(ChoiceOutput("a", 0, [], FinishReason.ERROR, error=error))
    [output] = await anext(stream)
    assert output == ChoiceOutput(
        *("a", 0, [1, 2, 3], FinishReason.ERROR),
        logprobs=[entry(-1), entry(-2), entry(-3)],
        prompt_logprobs=prompt,
        error=error,
    )


def num_kept_bytes(objects: object) -> int:
    """Of everything that is reached from there and was made for it."""
    seen: dict[int, object] = {}
    found = [objects]
    while found:
        one = found.pop()
        if id(one) not in seen and not isinstance(one, type | str | FinishReason | None):
            seen[id(one)] = one
            found += gc.get_referents(one)
    return sum(map(sys.getsizeof, seen.values()))


@pytest.mark.parametrize("num_top", [None, 0, 20])
async def test_what_is_not_read_is_bounded(num_top: int | None) -> None:
    stream, aborted = make_stream(make_request("a", [1], n=4), make_request("b", [1]))
    rng = random.Random(0)  # noqa: S311 - to be repeated
    num_put = 0
    while not aborted:
        token_ids = [rng.randrange(1000, 2**31)]
        logprobs = None
        if num_top is not None:
            top = [rng.randrange(1000, 2**31) for _ in range(num_top)]
            logprobs = [TokenLogprobs(rng.random(), 300, top, [rng.random() for _ in top])]
        stream.put(ChoiceOutput("a", num_put % 4, token_ids, logprobs=logprobs))
        num_put += 1
    assert aborted == [("a", None), ("b", None)]
    stream.put(ChoiceOutput("a", 0, [1]))
    assert MAX_UNREAD_BYTES / 2 < num_kept_bytes(stream._queue) < 1.2 * MAX_UNREAD_BYTES
    outputs = await anext(stream)
    assert sum(len(output.token_ids) for output in outputs) == num_put, "what came is not lost"
    with pytest.raises(SlowReaderError):
        await anext(stream)


async def test_who_reads_may_have_any_number() -> None:
    stream, aborted = make_stream(make_request("a", [1]))
    for _ in range(6):
        for _ in range(10_000):
            stream.put(ChoiceOutput("a", 0, [1], logprobs=[entry(0.0)] * 4))
            if len(stream._queue["a", 0].token_ids) == 8_000:
                await anext(stream)
    assert aborted == []


async def test_a_waiting_reader_is_woken_once_for_a_whole_step() -> None:
    stream, _ = make_stream(make_request("a", [1]), make_request("b", [1]))
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    step = [ChoiceOutput("a", 0, [1]), ChoiceOutput("b", 0, [2])]
    for output in step:
        stream.put(output)
    assert await reader == step


async def test_abort_of_a_choice_drops_what_waits_and_what_comes() -> None:
    stream, aborted = make_stream(make_request("a", [1], n=2), make_request("b", [1]))
    for request_id, index in [("a", 0), ("a", 1), ("b", 0)]:
        stream.put(ChoiceOutput(request_id, index, [1]))
    stream.abort("a", 1)
    stream.abort("a", 1)
    stream.put(ChoiceOutput("a", 1, [2]))
    assert aborted == [("a", 1)]
    assert [(o.request_id, o.index) for o in await anext(stream)] == [("a", 0), ("b", 0)]
    stream.abort("a")
    stream.abort("b", 0)
    assert aborted == [("a", 1), ("a", None), ("b", 0)]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_abort_of_the_unknown_and_the_finished_is_ignored() -> None:
    stream, aborted = make_stream(make_request("a", [1]))
    stream.abort("b")
    stream.abort("a", 7)
    stream.put(ChoiceOutput("a", 0, [1], FinishReason.STOP))
    stream.abort("a", 0)
    assert len(await anext(stream)) == 1
    stream.close()
    assert aborted == []


async def test_leaving_aborts_the_rest_and_ends_a_waiting_reader() -> None:
    stream, aborted = make_stream(make_request("a", [1]), make_request("b", [1], n=2))
    reader = asyncio.create_task(read_all(stream))
    await asyncio.sleep(0)
    async with stream:
        stream.put(ChoiceOutput("a", 0, [1], FinishReason.STOP))
    stream.close()
    assert aborted == [("b", None)]
    assert await reader == {}


async def test_giving_up_a_wait_loses_nothing() -> None:
    stream, aborted = make_stream(make_request("a", [1]))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), timeout=0.001)
    stream.put(ChoiceOutput("a", 0, [1]))
    assert [o.token_ids for o in await anext(stream)] == [[1]]
    assert aborted == []


async def test_failure_comes_after_what_had_come() -> None:
    stream, aborted = make_stream(make_request("a", [1]))
    stream.put(ChoiceOutput("a", 0, [1]))
    stream.fail("it died")
    assert len(await anext(stream)) == 1
    for _ in range(2):
        with pytest.raises(EngineDeadError, match="it died"):
            await anext(stream)
    stream.close()
    assert aborted == []


async def test_a_finished_stream_does_not_fail() -> None:
    stream, _ = make_stream(make_request("a", [1]))
    stream.put(ChoiceOutput("a", 0, [1], FinishReason.STOP))
    stream.fail("it died")
    assert await read_all(stream) == {("a", 0): [1]}


async def test_an_interrupt_ends_a_wait_and_loses_nothing() -> None:
    stream, _ = make_stream(make_request("a", [1]))
    stream.interrupt()  # nobody waits: nothing happens, now or later
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.interrupt()
    stream.put(ChoiceOutput("a", 0, [1]))
    with pytest.raises(TimeoutError):
        await reader
    assert [output.token_ids for output in await anext(stream)] == [[1]]


async def test_an_interrupt_comes_too_late_for_a_reader_that_was_woken() -> None:
    stream, _ = make_stream(make_request("a", [1]))
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put(ChoiceOutput("a", 0, [1]))
    stream.interrupt()
    assert [output.token_ids for output in await reader] == [[1]]
