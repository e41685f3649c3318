"""Restarts and their pauses, with real child processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_children import is_down, is_ready, is_running, make_client, until
from fake_engine_process import LIMITS, LINGER, SLOW_PART_SECONDS, SLOW_PARTS

import engine.child
from engine.config import EngineConfig
from engine.errors import EngineStartError
from engine.messages import Add, FromEngine
from engine.request import Request
from engine.supervisor import Backoff, Supervisor

pytestmark = pytest.mark.usefixtures("child_on_path")


class Watched:
    """A supervisor and what it tells."""

    def __init__(self, model_path: str = "", engine_timeout: float = 60.0) -> None:
        self.messages: list[FromEngine] = []
        self.deaths: asyncio.Queue[str] = asyncio.Queue()
        self.progress: list[float] = []
        self.supervisor = Supervisor(
            EngineConfig(model_path, engine_timeout=engine_timeout),
            "fake_engine_process",
            self.messages.append,
            self.deaths.put_nowait,
            lambda _, fraction: self.progress.append(fraction),
        )

    @property
    def pid(self) -> int:
        assert self.supervisor.pid is not None
        return self.supervisor.pid

    async def ready(self) -> None:
        while not self.supervisor.is_ready:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


def suspend(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    await watched.supervisor.start()
    yield watched
    await watched.supervisor.close()


def test_pauses_double_up_to_a_limit_and_start_over_after_health() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(seconds_up=1.0) for _ in range(9)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.pause(seconds_up=3600.0) == 0.1
    assert backoff.pause(seconds_up=0.0) == 0.2


async def test_dies_again_and_again(watched: Watched) -> None:
    pids = [watched.pid]
    for _ in range(3):
        os.kill(watched.pid, signal.SIGTERM)
        assert await watched.deaths.get() == "killed by signal 15"
        assert not watched.supervisor.is_ready
        await watched.ready()
        pids.append(watched.pid)
    assert len(set(pids)) == 4
    assert watched.progress == [0.0, 1.0] * 4


async def test_a_restart_that_fails_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched(f"flaky:{tmp_path / 'starts'}")
    await watched.supervisor.start()
    os.kill(watched.pid, signal.SIGKILL)
    await watched.deaths.get()
    await watched.ready()
    await watched.supervisor.close()
    assert (tmp_path / "starts").read_text() == "3"
    assert watched.deaths.empty(), "only a ready engine can die"
    assert "could not be started again" in caplog.text
    assert "exit code 4" in caplog.text
    assert "started again in 0.1 s" in caplog.text
    assert "started again in 0.2 s" in caplog.text


async def test_a_process_that_does_not_go_is_killed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine.child, "EXIT_GRACE_SECONDS", 0.05)
    pid = watched.pid
    suspend(pid)
    await watched.supervisor.close()
    assert f"engine process {pid} does not end; killing it" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_closed_between_death_and_restart(watched: Watched) -> None:
    os.kill(watched.pid, signal.SIGKILL)
    await watched.deaths.get()
    pid = watched.pid
    await watched.supervisor.close()
    assert watched.pid == pid


async def test_the_terminal_and_open_files_stay_with_the_parent(watched: Watched) -> None:
    assert os.getsid(watched.pid) == watched.pid
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        os.kill(watched.pid, signal.SIGKILL)
        await watched.deaths.get()
        await watched.ready()
        folder = f"/proc/{watched.pid}/fd"
        files = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    assert len([name for name in files if name.startswith("socket:")]) == 1


async def test_a_process_that_cannot_be_killed_holds_nothing_up(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that waits for a dead disk or device, for example: no signal ends it."""
    monkeypatch.setattr(engine.child, "EXIT_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    pid = watched.pid
    suspend(pid)
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    async with asyncio.timeout(20):
        await watched.supervisor.close()
    ticking.cancel()
    assert longest < 5, "the event loop waited too"
    assert f"engine process {pid} cannot be killed" in caplog.text
    os.kill(pid, signal.SIGKILL)
    assert watched.supervisor._child is not None
    watched.supervisor._child._process.wait()


async def test_a_process_that_hangs_while_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.child, "LOADING_SECONDS", 1.0)
    watched = Watched("hang", engine_timeout=0.5)
    with pytest.raises(
        EngineStartError, match=r"no progress for 1 s while it was loading \((reading, 0%|starting)"
    ):
        await watched.supervisor.start()
    assert watched.supervisor.num_hangs == 1
    with pytest.raises(ProcessLookupError):
        os.kill(watched.pid, 0)
    await watched.supervisor.close()


async def test_a_patient_operator_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.child, "LOADING_SECONDS", 0.2)
    watched = Watched("hang", engine_timeout=1.2)
    with pytest.raises(EngineStartError, match="no progress for 1.2 s"):
        await watched.supervisor.start()
    await watched.supervisor.close()


async def test_a_slow_start_with_progress_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = 3.0
    assert 1.5 * patience < SLOW_PARTS * SLOW_PART_SECONDS
    monkeypatch.setattr(engine.child, "LOADING_SECONDS", patience)
    watched = Watched("slow", engine_timeout=1.0)
    await watched.supervisor.start()
    assert watched.supervisor.is_ready
    await watched.supervisor.close()


async def test_closed_just_when_it_comes_up() -> None:
    """Nothing is watched, told or started after that."""
    watched = Watched()
    starting = asyncio.create_task(watched.supervisor.start())
    while not watched.supervisor.is_ready:  # noqa: ASYNC110 - not a moment may pass
        await asyncio.sleep(0)
    await watched.supervisor.close()
    with pytest.raises(EngineStartError, match="shut down"):
        await starting
    assert watched.deaths.empty()
    with pytest.raises(ProcessLookupError):
        os.kill(watched.pid, 0)


async def test_an_end_is_told_before_the_process_is_gone(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that said that it cannot go on, and takes its time."""
    monkeypatch.setattr(engine.child, "EXIT_GRACE_SECONDS", 1.0)
    pid = watched.pid
    watched.supervisor.send(Add(Request("r", [LINGER])))
    assert await watched.deaths.get() == "it has not ended yet"
    os.kill(pid, 0)  # it is there
    await watched.ready()
    assert watched.pid != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_another_model_is_not_served_under_the_first_ones_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody replaced the file: the tokenizer, and what clients were told, are the old one's."""
    facts = tmp_path / "facts"
    facts.write_text("{}")
    watched = Watched(f"changing:{facts}")
    await watched.supervisor.start()
    facts.write_text('{"vocab_size": 7}')
    os.kill(watched.pid, signal.SIGKILL)
    await watched.deaths.get()
    async with asyncio.timeout(60):
        while watched.supervisor.num_failed_starts < 2:
            assert not watched.supervisor.is_ready
            await asyncio.sleep(0.005)
    facts.write_text("{}")  # as it was
    await watched.ready()
    await watched.supervisor.close()
    assert "vocab_size was 105 and is 7; bring back the model's files" in caplog.text
    assert watched.deaths.empty(), "only a ready engine can die"


async def test_what_an_engine_has_less_of_is_known(tmp_path: Path) -> None:
    """Pages, for example: memory may have become scarce."""
    facts = tmp_path / "facts"
    facts.write_text("{}")
    client = make_client(f"changing:{facts}")
    assert (await client.start()).num_blocks == LIMITS.num_blocks
    facts.write_text('{"num_blocks": 100}')
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    await until(lambda: is_down(client))
    await until(lambda: is_ready(client))
    assert client.info.num_blocks == 100
    await client.close()


async def test_whom_it_started_ends_with_it(tmp_path: Path) -> None:
    """A compiler, for example, in the middle of its work."""
    note = tmp_path / "pid"
    watched = Watched(f"compile:{note}")
    starting = asyncio.create_task(watched.supervisor.start())
    async with asyncio.timeout(60):
        while not (note.exists() and note.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.005)
        await watched.supervisor.close()
        with pytest.raises(EngineStartError):
            await starting
        while is_running(int(note.read_text())):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
