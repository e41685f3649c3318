"""The cache folder: `<cache>/models/<model>-<hash>/<file>`, where every file is whole or not there.

A file is written under a `.tmp-` name beside its target and renamed when it is on the disk; a lock
per model folder keeps two servers from fetching the same thing. Knows nothing of what it stores.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import CheckpointError

_TEMP_PREFIX = ".tmp-"


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/octavo`, or `~/.cache/octavo`. The server's settings may say otherwise."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is invalid and must be ignored.
    if os.path.isabs(xdg):
        return Path(xdg, "octavo")
    try:
        return Path.home() / ".cache" / "octavo"
    except RuntimeError as error:  # a user without a name, as containers have them
        raise CheckpointError("this user has no home folder: set OCTAVO_CACHE to one") from error


@contextmanager
def placing(target: Path) -> Iterator[BinaryIO]:
    """Write a file that appears at `target` when the block ends well, and not at all otherwise."""
    temp = target.with_name(_temp_name())
    try:
        with temp.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temp.replace(target)
        _sync_folder(target.parent)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder` (so on the same disk), removed with all it holds at the end."""
    scratch = folder / _temp_name()
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def exclusive(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Be the only process in the block for `folder`; `on_wait` is called if another one is there.

    The kernel releases the lock when its holder dies, however it dies. What a dead holder left
    half-written is removed on the way in.
    """
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        _remove_leftovers(folder)
        yield


def check_free_space(folder: Path, num_bytes: int) -> None:
    """Raise CheckpointError unless the disk under `folder` has `num_bytes` free."""
    num_free = shutil.disk_usage(folder).free
    if num_free < num_bytes:
        raise CheckpointError(
            f"not enough space in {folder}: {num_bytes:,} bytes are needed and {num_free:,} are "
            "free; make room or choose another cache folder"
        )


@contextmanager
def storage_errors(folder: Path, num_bytes: int) -> Iterator[None]:
    """Turn an OSError inside the block into a CheckpointError for the user of `folder`.

    `num_bytes` is what the block needs on the disk, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not from the file system: HTTP libraries derive from OSError too
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"no space left in {folder}: {num_bytes:,} bytes are needed; make room"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            problem = f"the cache folder {folder} is not writable ({error.strerror}); change that"
        else:
            problem = f"cannot use the cache folder {folder} ({error.strerror or error}); repair it"
        raise CheckpointError(f"{problem} or choose another cache folder") from error


def _temp_name() -> str:
    return f"{_TEMP_PREFIX}{secrets.token_hex(8)}"


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{_TEMP_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
