"""`python -m server` with an engine that keeps dying, and with too little of everything."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Semaphore

import httpx
import pytest
from chaos.real_server import command, complete, failed_start, kill_engine, serving
from serve_process import wait_healthy

# The server as it is, but for the pauses between starts, which add up to half a minute.
HASTY = """
import runpy
import engine.supervisor
engine.supervisor.Backoff.LONGEST = 0.4
runpy.run_module("server", run_name="__main__", alter_sys=True)
"""


def test_an_engine_that_dies_again_and_again_ends_the_server(builtin_model: Path) -> None:
    with serving(builtin_model, program=("-c", HASTY)) as (process, url):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        killed = set()
        assert process.stderr is not None
        lines = []

        def kill_all() -> None:
            for pid in children.read_text().split():
                if pid not in killed:
                    killed.add(pid)
                    os.kill(int(pid), signal.SIGKILL)

        kill_all()
        for line in process.stderr:
            lines.append(line)
            if re.search(r"engine process \d+ started", line):
                assert httpx.get(f"{url}/health", timeout=60).status_code == 503
                kill_all()
        assert process.wait(60) == 4
    said = [line for line in lines if line.startswith("octavo: ")]
    assert len(said) == 1
    assert "stopped 10 times in a row" in said[0]
    assert not any("Traceback" in line for line in lines)


def test_few_file_descriptors(builtin_model: Path) -> None:
    """More connections than it may open: nobody is served beyond, and it recovers."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with serving(builtin_model, limit=limit) as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        sockets = [socket.create_connection(address, timeout=60) for _ in range(120)]
        answers = []
        for sock in sockets:
            with suppress(OSError):  # an idle one gives way to a newer one
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answers.append(sock.recv(1000)[:12])
        assert b"HTTP/1.1 200" in answers
        assert set(answers) <= {b"HTTP/1.1 200", b""}
        for sock in sockets:
            sock.close()
        assert complete(url, 4).endswith("data: [DONE]\n\n")
        assert process.poll() is None


def test_the_engine_dies_while_no_more_files_may_be_opened(builtin_model: Path) -> None:
    """All connections that there may be are busy; starting another engine takes some files too."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with serving(builtin_model, limit=limit) as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        # Begun and not finished: none of them is idle.
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        sockets = [socket.create_connection(address, timeout=60) for _ in range(100)]
        for sock in sockets:
            with suppress(OSError):
                sock.sendall(head)
        kill_engine(process)
        wait_healthy(process, url)
        assert complete(url, 4).endswith("data: [DONE]\n\n")
        for sock in sockets:
            sock.close()


def test_sigterm_under_load_lets_all_finish(builtin_model: Path) -> None:
    with (
        serving(builtin_model, "--drain-timeout", "200") as (process, url),
        ThreadPoolExecutor(24) as pool,
    ):
        begun = Semaphore(0)
        posts = [pool.submit(complete, url, 60, number, begun.release) for number in range(24)]
        for _ in posts:
            assert begun.acquire(timeout=120)
        process.send_signal(signal.SIGTERM)
        for post in posts:
            text = post.result()
            assert text.endswith("data: [DONE]\n\n")
            assert '"error"' not in text
            assert text.count('"finish_reason":"length"') == 1
        assert process.wait(60) == 0


def test_what_does_not_finish_in_time_is_told(builtin_model: Path) -> None:
    with (
        serving(builtin_model, "--drain-timeout", "1") as (process, url),
        ThreadPoolExecutor(8) as pool,
    ):
        begun = Semaphore(0)
        posts = [pool.submit(complete, url, 900, number, begun.release) for number in range(8)]
        for _ in posts:
            assert begun.acquire(timeout=120)
        process.send_signal(signal.SIGTERM)
        texts = [post.result() for post in posts]
        assert all(text.endswith("data: [DONE]\n\n") for text in texts)
        assert any('"shutting_down"' in text for text in texts)
        assert process.wait(60) == 0


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_a_truncated_model(builtin_model: Path, tmp_path: Path, share: float) -> None:
    whole = builtin_model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(share * len(whole))])
    assert str(path) in failed_start(command(path))


def test_a_port_in_use(builtin_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = failed_start([*command(builtin_model), "--port", port])
        assert port in line or "in use" in line
