"""The model's file is cut short or replaced under a server that has it open."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from chaos.real_server import command, complete, engine_pids, serving
from serve_process import ENVIRONMENT, ROOT, wait_healthy


@pytest.fixture
def copy(builtin_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(builtin_model.read_bytes())
    return path


def test_cut_short_while_it_is_served(copy: Path) -> None:
    """Weights are in memory; the next engine says what is wrong, and the one after is well."""
    whole = copy.read_bytes()
    with serving(copy) as (process, url):
        for pid in (process.pid, *engine_pids(process)):
            assert str(copy) not in Path(f"/proc/{pid}/maps").read_text()
        os.truncate(copy, len(whole) // 2)
        assert complete(url, 16).endswith("data: [DONE]\n\n")
        [engine] = engine_pids(process)
        os.kill(engine, signal.SIGKILL)
        assert process.stderr is not None
        line = next(line for line in process.stderr if "could not be started again" in line)
        assert str(copy) in line
        assert "reaches past the end of the file" in line
        copy.write_bytes(whole)
        wait_healthy(process, url)
        assert complete(url, 16).endswith("data: [DONE]\n\n")


def test_cut_short_while_it_is_loaded(copy: Path) -> None:
    process = subprocess.Popen(
        command(copy),
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line == "loading weights\n":
                [engine] = engine_pids(process)
                os.kill(engine, signal.SIGSTOP)
                os.truncate(copy, 4096)
                os.kill(engine, signal.SIGCONT)
        assert process.wait(60) == 3, lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    [said] = [line for line in lines if line.startswith("octavo: ")]
    assert "was cut short while it was read" in said
