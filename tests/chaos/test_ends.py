"""Servers that are killed, or told to go, at awkward moments: who is told, who is left over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import httpx
import pytest
from chaos.real_server import command, complete, engine_pids, serving
from engine_children import is_running
from serve_process import ENVIRONMENT, ROOT


def group(leader: int) -> list[int]:
    """The engine and whom it has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and is_running(int(folder.name)):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == leader:
                found.append(int(folder.name))
    return found


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def started(model: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(model),
        cwd=ROOT,
        env=ENVIRONMENT | {"OCTAVO_CACHE": str(cache)},
        # Tests in the background may be deaf to it, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_start_that_is_cut_short_leaves_nobody(
    builtin_model: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """In the middle of compiling: the compiler goes too. The next start finds a clean cache."""
    process = started(builtin_model, tmp_path)
    try:
        until(lambda: engine_pids(process))
        [engine] = engine_pids(process)
        until(lambda: len(group(engine)) > 1)
        for _ in range(1 if sent is signal.SIGKILL else 2):  # impatient
            process.send_signal(sent)
        code = process.wait(30)
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[sent]
        until(lambda: not group(engine))
    finally:
        process.kill()
        process.wait()
    with serving(builtin_model, environment={"OCTAVO_CACHE": str(tmp_path)}) as (_, url):
        assert complete(url, 2).endswith("data: [DONE]\n\n")
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1
    assert not list((tmp_path / "kernels").glob(".tmp-*"))


def test_two_servers_compile_once(builtin_model: Path, tmp_path: Path) -> None:
    """With one cache, which is empty; and the first is killed in the middle."""
    first = started(builtin_model, tmp_path)
    second = started(builtin_model, tmp_path)
    try:
        until(lambda: engine_pids(first) and engine_pids(second))
        engines = [*engine_pids(first), *engine_pids(second)]
        until(lambda: any(len(group(engine)) > 1 for engine in engines))
        time.sleep(1)
        [compiling] = [engine for engine in engines if len(group(engine)) > 1]
        (first if compiling == engines[0] else second).kill()
        until(lambda: not group(compiling))
        other = engines[1] if compiling == engines[0] else engines[0]
        until(lambda: len(group(other)) > 1)
        with serving(builtin_model, environment={"OCTAVO_CACHE": str(tmp_path)}) as (_, url):
            assert complete(url, 2).endswith("data: [DONE]\n\n")
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1
    assert not list((tmp_path / "kernels").glob(".tmp-*"))


@pytest.mark.parametrize("num_signals", [1, 2])
def test_sigterm_while_the_engine_is_started_again(builtin_model: Path, num_signals: int) -> None:
    """Who waits for the next engine gets an answer, of it or that it is too late."""
    with (
        serving(builtin_model, "--drain-timeout", "200", "--max-num-seqs", "2") as (process, url),
        ThreadPoolExecutor(6) as pool,
    ):
        begun = Semaphore(0)
        running = [pool.submit(complete, url, 900, number, begun.release) for number in range(2)]
        for _ in running:
            assert begun.acquire(timeout=60)
        body = {"model": "smol", "prompt": "The sea is", "max_tokens": 4}
        waiting = [
            pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=200)
            for _ in range(4)
        ]
        until(lambda: waiting_choices(url) == 4)
        [engine] = engine_pids(process)
        os.kill(engine, signal.SIGKILL)
        until(lambda: engine_pids(process) not in ([], [engine]))
        for _ in range(num_signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        assert all('"error"' in post.result() for post in running)
        answers = [post.result() for post in waiting]
        [last] = {answer.status_code for answer in answers}
        assert last == (200 if num_signals == 1 else 503)
        assert process.wait(60) == 0


def waiting_choices(url: str) -> float:
    page = httpx.get(f"{url}/metrics").text
    found = re.search(r"^octavo:num_requests_waiting\{.*\} (.*)$", page, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_killed_server_takes_its_engine_along(builtin_model: Path) -> None:
    with serving(builtin_model) as (process, url), ThreadPoolExecutor(8) as pool:
        begun = Semaphore(0)
        posts = [pool.submit(complete, url, 900, number, begun.release) for number in range(8)]
        for _ in posts:
            assert begun.acquire(timeout=60)
        [engine] = engine_pids(process)
        process.kill()
        until(lambda: not group(engine))
        for post in posts:
            with pytest.raises(httpx.TransportError):
                post.result()
