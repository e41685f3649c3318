"""engine/checkpoint/cache.py: whole files or none, one process at a time, errors for the user."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.checkpoint.cache import (
    check_free_space,
    default_cache_dir,
    exclusive,
    placing,
    scratch_folder,
    storage_errors,
)
from engine.errors import CheckpointError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: be somebody else for the block."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache_dir() == Path("/elsewhere/octavo")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    assert default_cache_dir() == Path("/home/somebody/.cache/octavo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path("/home/somebody/.cache/octavo")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    with pytest.raises(CheckpointError, match="no home folder: set OCTAVO_CACHE"):
        default_cache_dir()


def test_placing_shows_the_file_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with placing(target) as file:
        file.write(b"first half, ")
        file.flush()
        assert not target.exists()
        file.write(b"second half")
    assert target.read_bytes() == b"first half, second half"
    assert names_in(tmp_path) == ["model"]


def test_placing_leaves_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), placing(target) as file:
        file.write(b"new")
        raise RuntimeError("stop")
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["model"]


def test_placed_files_can_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with placing(tmp_path / "model"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o644


def test_scratch_folder_goes_with_all_it_holds(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), scratch_folder(tmp_path) as scratch:
        assert scratch.parent == tmp_path
        (scratch / "below").mkdir()
        (scratch / "below" / "file").write_bytes(b"x")
        raise RuntimeError("stop")
    assert names_in(tmp_path) == []


def test_exclusive_keeps_another_process_out_until_the_holder_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, sys\n"
            "from engine.checkpoint.cache import exclusive, placing\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "with exclusive(folder, on_wait=lambda: None), placing(folder / 'model') as file:\n"
            "    file.write(b'half')\n"
            "    file.flush()\n"
            "    print('inside', flush=True)\n"
            "    sys.stdin.read()\n",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"inside\n"
        assert len(names_in(tmp_path)) == 2  # the lock and half a file

        waits = []

        def kill_holder() -> None:
            waits.append("waited")
            holder.kill()

        with exclusive(tmp_path, on_wait=kill_holder):
            assert names_in(tmp_path) == [".lock"]
        assert waits == ["waited"]


def test_exclusive_does_not_wait_for_nobody(tmp_path: Path) -> None:
    def never() -> None:
        raise AssertionError("nobody holds the lock")

    for _ in range(2):
        with exclusive(tmp_path, on_wait=never):
            pass


def test_check_free_space(tmp_path: Path) -> None:
    check_free_space(tmp_path, 1)
    too_much = shutil.disk_usage(tmp_path).total + 1
    with pytest.raises(CheckpointError, match=rf"{tmp_path}: {too_much:,} bytes are needed"):
        check_free_space(tmp_path, too_much)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_names_the_folder_and_the_bytes(number: int) -> None:
    with (
        pytest.raises(CheckpointError, match="no space left in /some/where: 123,456 bytes"),
        storage_errors(Path("/some/where"), 123_456),
    ):
        raise OSError(number, os.strerror(number))


def test_a_real_full_disk() -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full on this system")
    with (
        pytest.raises(CheckpointError, match="no space left in /dev: 1 bytes"),
        storage_errors(device.parent, 1),
        device.open("wb") as file,
    ):
        file.write(b"x")
        file.flush()


def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with (
        unprivileged(),
        pytest.raises(CheckpointError, match="is not writable .Permission denied"),
        storage_errors(locked, 1),
    ):
        (locked / "model").mkdir()


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with (
        pytest.raises(CheckpointError, match=r"cannot use the cache folder .* .Not a directory"),
        storage_errors(tmp_path / "cache", 1),
    ):
        (tmp_path / "cache" / "models").mkdir()


def test_other_errors_pass(tmp_path: Path) -> None:
    for error in (ValueError("mine"), OSError("of an HTTP library"), CheckpointError("said")):
        with pytest.raises(type(error)) as caught, storage_errors(tmp_path, 1):
            raise error
        assert caught.value is error
