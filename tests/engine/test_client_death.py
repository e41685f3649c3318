"""EngineClient when the engine process dies under it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from engine_children import (
    is_alive,
    is_down,
    is_idle,
    is_ready,
    kill_unnoticed,
    make_request,
    read_all,
    until,
)
from fake_engine_process import DIE, LIMITS, RAISE, SEND_GARBAGE, SEND_OVERSIZED, expected_tokens

import engine.client
import engine.supervisor
from engine import EngineClient, EngineConfig, EngineDeadError, FinishReason
from engine.scheduling.faults import STEP_FAILED
from engine.stats import EngineHistory
from engine.submissions import KILLED_THE_ENGINE


async def test_killed_under_streams(client: EngineClient, caplog: pytest.LogCaptureFixture) -> None:
    pid = client.pid
    assert pid is not None
    streams = [client.add([make_request(f"r{i}", [i])]) for i in range(16)]
    await asyncio.gather(*[anext(stream) for stream in streams])
    os.kill(pid, signal.SIGKILL)
    failures = await asyncio.gather(
        *[read_all(stream) for stream in streams], return_exceptions=True
    )
    assert not client.is_ready
    for failure in failures:
        assert isinstance(failure, EngineDeadError)
        assert str(failure) == (
            "the engine process stopped unexpectedly (killed by signal 9) and is being "
            "started again; send the request again"
        )
    with pytest.raises(EngineDeadError, match="is being started"):
        client.add([make_request("refused", [1])])
    with pytest.raises(EngineDeadError, match="is being started"):
        await client.stats()
    assert client.info.num_blocks == LIMITS.num_blocks
    assert client.history == EngineHistory(num_deaths=1)
    assert f"engine process {pid} stopped unexpectedly (killed by signal 9)" in caplog.text

    await until(lambda: is_ready(client))
    assert client.pid != pid
    assert not is_alive(pid)
    assert await read_all(client.add([make_request("next", [3], max_tokens=4)])) == {
        ("next", 0): expected_tokens(3, 0, 4)
    }


@pytest.mark.parametrize(
    ("order", "logged"),
    [
        (DIE, "(killed by signal 9): it did not say why"),
        (SEND_GARBAGE, "): the engine process sent what is not a message"),
        (SEND_OVERSIZED, "): the engine process sent what is not a message"),
    ],
)
async def test_a_request_that_ends_the_engine(
    client: EngineClient, caplog: pytest.LogCaptureFixture, order: int, logged: str
) -> None:
    """It is refused after it has done so twice, the second time alone. Who came with it is not
    harmed, who had begun to receive is told."""
    neighbour = client.add([make_request("neighbour", [1])])
    await anext(neighbour)
    company = [client.add([make_request(f"r{i}", [i, i], max_tokens=500, n=2)]) for i in range(5)]
    bad = client.add([make_request("bad", [order], n=2)])
    company += [client.add([make_request(f"r{i}", [i, i], max_tokens=500)]) for i in range(5, 9)]
    for stream in company[:2]:
        stream.abort(next(iter(stream._open)), 0)
    outputs = [output async for outputs in bad for output in outputs]
    assert [(o.index, o.finish_reason, o.error) for o in outputs] == [
        (index, FinishReason.ERROR, KILLED_THE_ENGINE) for index in range(2)
    ]
    assert caplog.text.count(logged) == 2
    with pytest.raises(EngineDeadError):
        await read_all(neighbour)
    for i, stream in enumerate(company):
        expected = {(f"r{i}", index): expected_tokens(i, index, 500) for index in range(2)}
        if i < 2:
            del expected[f"r{i}", 0]
        if i >= 5:
            del expected[f"r{i}", 1]
        assert await read_all(stream) == expected
    await until(lambda: is_idle(client))


async def test_a_step_that_raises_fails_one_request_alone(client: EngineClient) -> None:
    pid = client.pid
    neighbour = client.add([make_request("neighbour", [1], max_tokens=300)])
    await anext(neighbour)
    [outputs] = [outputs async for outputs in client.add([make_request("bad", [RAISE])])]
    assert [(o.finish_reason, o.error) for o in outputs] == [(FinishReason.ERROR, STEP_FAILED)]
    assert (await read_all(neighbour))["neighbour", 0][-1] == expected_tokens(1, 0, 300)[-1]
    assert client.pid == pid


async def test_queued_requests_are_handed_to_the_next_process(client: EngineClient) -> None:
    """Those that had not begun; the reader of a mixed stream is told, as it has lost something."""
    assert client.pid is not None
    running = [client.add([make_request(f"r{i}", [i])]) for i in range(LIMITS.max_num_seqs)]
    await asyncio.gather(*[anext(stream) for stream in running])
    queued = [client.add([make_request(f"q{i}", [i], max_tokens=9)]) for i in range(20)]
    left = client.add([make_request("left", [1])])
    os.kill(client.pid, signal.SIGKILL)
    left.close()
    failures = await asyncio.gather(*map(read_all, running), return_exceptions=True)
    assert all(isinstance(failure, EngineDeadError) for failure in failures)
    for i, stream in enumerate(queued):
        assert await read_all(stream) == {(f"q{i}", 0): expected_tokens(i, 0, 9)}
    await until(lambda: is_idle(client))


async def test_a_process_that_hangs_is_replaced(
    child_on_path: None, caplog: pytest.LogCaptureFixture
) -> None:
    client = EngineClient(EngineConfig("", engine_timeout=1.0), module="fake_engine_process")
    await client.start()
    stream = client.add([make_request("r", [1])])
    await anext(stream)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    with pytest.raises(EngineDeadError, match="killed by signal 9"):
        await read_all(stream)
    assert not client.is_ready
    assert "it finished no step for 1 s (--engine-timeout)" in caplog.text
    await until(lambda: is_ready(client))
    assert await read_all(client.add([make_request("next", [3], max_tokens=4)]))
    await client.close()


async def test_an_idle_engine_is_not_taken_to_hang(child_on_path: None) -> None:
    client = EngineClient(EngineConfig("", engine_timeout=1.0), module="fake_engine_process")
    await client.start()
    pid = client.pid
    await asyncio.sleep(3)
    assert (client.is_ready, client.pid) == (True, pid)
    await client.close()


async def test_after_many_deaths_it_gives_up(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.supervisor.Backoff, "MOST_ENDS", 3)
    given_up = asyncio.ensure_future(client.wait_given_up())
    for num_deaths in range(1, 4):
        await until(lambda: is_ready(client))
        running = [client.add([make_request(f"r{i}", [i])]) for i in range(LIMITS.max_num_seqs)]
        queued = client.add([make_request("queued", [1])])
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda: is_down(client))
        for stream in running:
            stream.close()
        if num_deaths < 3:
            queued.close()
    with pytest.raises(EngineDeadError, match="stopped 3 times in a row"):
        await given_up
    with pytest.raises(EngineDeadError):
        await read_all(queued)


async def test_readers_of_stats_are_told(client: EngineClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    reader = asyncio.create_task(client.stats())
    await asyncio.sleep(0)
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(EngineDeadError, match="killed by signal 9"):
        await reader


async def test_abort_between_death_and_its_discovery(client: EngineClient) -> None:
    assert client.pid is not None
    streams = [client.add([make_request(f"r{i}", [1])]) for i in range(10)]
    kill_unnoticed(client.pid)
    for stream in streams:
        stream.close()
        assert await read_all(stream) == {}


async def test_an_engine_that_reads_nothing_gets_no_more(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.client, "MAX_UNSENT_BYTES", 1 << 20)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    with pytest.raises(EngineDeadError, match="does not respond"):
        for i in range(100):
            client.add([make_request(f"r{i}", [1] * 100_000)])
    os.kill(client.pid, signal.SIGKILL)
