"""EngineClient when the engine process dies under it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from engine_children import is_alive, is_ready, kill_unnoticed, make_request, read_all, until
from fake_engine_process import DIE, LIMITS, RAISE, SEND_GARBAGE, SEND_OVERSIZED, expected_tokens

import engine.client
from engine import EngineClient, EngineDeadError


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
    assert client.num_deaths == 1
    assert f"engine process {pid} stopped unexpectedly (killed by signal 9)" in caplog.text

    await until(lambda: is_ready(client))
    assert client.pid != pid
    assert not is_alive(pid)
    assert await read_all(client.add([make_request("next", [3], max_tokens=4)])) == {
        ("next", 0): expected_tokens(3, 0, 4)
    }


@pytest.mark.parametrize(
    ("order", "ending", "logged"),
    [
        (DIE, "killed by signal 9", "it did not say why"),
        (RAISE, "exit code 1", "ZeroDivisionError: the runner was ordered to fail"),
        (SEND_GARBAGE, "exit code 0", "sent what is not a message"),
        (SEND_OVERSIZED, "exit code 0", "sent what is not a message"),
    ],
)
async def test_a_request_that_ends_the_engine(
    client: EngineClient,
    caplog: pytest.LogCaptureFixture,
    order: int,
    ending: str,
    logged: str,
) -> None:
    neighbour = client.add([make_request("neighbour", [1])])
    await anext(neighbour)
    with pytest.raises(EngineDeadError) as failure:
        await read_all(client.add([make_request("bad", [order])]))
    assert ending in str(failure.value)
    assert logged in caplog.text
    with pytest.raises(EngineDeadError):
        await read_all(neighbour)
    neighbour.close()
    await until(lambda: is_ready(client))
    assert await read_all(client.add([make_request("bad", [1], max_tokens=1)]))


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
