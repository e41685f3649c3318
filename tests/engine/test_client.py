"""EngineClient with a real child process: generation and aborts."""

from __future__ import annotations

import asyncio

import pytest
from engine_children import is_idle, make_request, read_all, until
from fake_engine_process import LIMITS, NUM_COUNTS, expected_tokens

import engine.channel
from engine import ChoiceOutput, EngineClient, FinishReason, Request, SamplingParams


async def test_one_request(client: EngineClient) -> None:
    assert client.is_ready
    assert client.info.max_model_len == LIMITS.max_model_len
    outputs: list[ChoiceOutput] = []
    async for some in client.add([make_request("a", [7, 8, 9], max_tokens=20)]):
        outputs += some
    assert [t for o in outputs for t in o.token_ids] == expected_tokens(9, 0, 20)
    assert [o.finish_reason for o in outputs] == [None] * 19 + [FinishReason.LENGTH]


async def test_many_streams_at_once(client: EngineClient) -> None:
    streams = [client.add([make_request(f"r{i}", [50, i], max_tokens=20 + i)]) for i in range(16)]
    results = await asyncio.gather(*[read_all(stream) for stream in streams])
    for i, tokens in enumerate(results):
        assert tokens == {(f"r{i}", 0): expected_tokens(i, 0, 20 + i)}


async def test_several_requests_and_choices_in_one_stream(client: EngineClient) -> None:
    requests = [make_request(f"r{i}", [i], max_tokens=5 + i, n=i) for i in range(1, 5)]
    assert await read_all(client.add(requests)) == {
        (f"r{i}", index): expected_tokens(i, index, 5 + i)
        for i in range(1, 5)
        for index in range(i)
    }


async def test_many_prompts_of_one_call(client: EngineClient) -> None:
    sampling = SamplingParams(max_tokens=4, allowed_token_ids=tuple(range(50_000)))
    requests = [Request(f"r{i}", [i % NUM_COUNTS], sampling) for i in range(300)]
    assert await read_all(client.add(requests)) == {
        (f"r{i}", 0): expected_tokens(i % NUM_COUNTS, 0, 4) for i in range(300)
    }


async def test_outputs_of_a_slow_reader_are_joined(client: EngineClient) -> None:
    slow = client.add([make_request("slow", [1], max_tokens=30)])
    await read_all(client.add([make_request("other", [2], max_tokens=60)]))
    assert [t for o in await anext(slow) for t in o.token_ids] == expected_tokens(1, 0, 30)


async def test_abort_of_one_choice(client: EngineClient) -> None:
    stream = client.add([make_request("a", [5], max_tokens=100, n=3)])
    first = await anext(stream)
    stream.abort("a", 1)
    tokens = await read_all(stream)
    assert set(tokens) == {("a", 0), ("a", 2)}
    for index in (0, 2):
        seen = [t for o in first if o.index == index for t in o.token_ids]
        assert seen + tokens["a", index] == expected_tokens(5, index, 100)


async def test_leaving_frees_in_the_engine(client: EngineClient) -> None:
    async with client.add([make_request("a", [1], n=3), make_request("b", [2])]) as stream:
        await anext(stream)
        stats = await client.stats()
        assert stats.num_running + stats.num_waiting > 0
        assert stats.num_blocks_used > 0
    await until(lambda: is_idle(client))


async def test_a_cancelled_reader_frees_in_the_engine(client: EngineClient) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async with client.add([make_request("a", [1])]) as stream:
            async for _ in stream:
                started.set()

    reader = asyncio.create_task(read())
    await started.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await until(lambda: is_idle(client))


async def test_aborted_before_the_engine_saw_it(client: EngineClient) -> None:
    client.add([make_request("a", [1])]).close()
    await until(lambda: is_idle(client))
    assert await read_all(client.add([make_request("b", [1], max_tokens=1)]))


async def test_abort_of_what_the_engine_finished_is_ignored(client: EngineClient) -> None:
    stream = client.add([make_request("a", [1], max_tokens=1)])
    # The engine is done with it; the event loop has not read that yet.
    await until(lambda: is_idle(client))
    stream.close()
    for _ in range(2):
        assert await read_all(client.add([make_request("b", [1], max_tokens=3)]))


async def test_stats_from_many_readers(client: EngineClient) -> None:
    await read_all(client.add([make_request("a", [1, 2, 3], max_tokens=10)]))
    cancelled = asyncio.create_task(client.stats())
    await asyncio.sleep(0)
    cancelled.cancel()
    for stats in await asyncio.gather(*[client.stats() for _ in range(20)]):
        assert stats.num_generated_tokens == 10
        assert stats.num_prompt_tokens == 3


async def test_a_large_message(client: EngineClient) -> None:
    requests = [make_request(f"r{i}", list(range(100)) * 1000, max_tokens=1) for i in range(10)]
    async with client.add(requests) as stream:
        await anext(stream)
    await until(lambda: is_idle(client))


async def test_requests_of_one_call_that_are_too_large_for_one_message(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.channel, "MAX_FRAME_BYTES", 20_000)
    requests = [make_request(f"r{i}", [i] * 2000, max_tokens=2) for i in range(10)]
    tokens = await read_all(client.add(requests))
    assert tokens == {(f"r{i}", 0): expected_tokens(i, 0, 2) for i in range(10)}
