"""What the user calls a model, turned into a path: the built-in name, a path, or a hub id.

Does not open the model; `open_checkpoint` does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.checkpoint.builtin import BUILTIN_MODEL, SMOLLM2, fetch_builtin
from engine.errors import CheckpointError

_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"(?P<repo_id>{_HUB_NAME}/{_HUB_NAME})(?::(?P<file_name>.+))?")

_FORMS = (
    f"give {BUILTIN_MODEL}, a .gguf file, a Hugging Face folder, "
    "or a hub id: owner/name or owner/name:file.gguf"
)


def resolve_model(
    name: str,
    *,
    cache_dir: Path,
    offline: bool,
    on_progress: Callable[[str, float], None],
    extra_dirs: Sequence[Path] = (),
) -> Path:
    """The absolute path of a .gguf file or of a folder, downloaded if need be and allowed.

    A path that exists comes before a hub id of the same spelling. `on_progress` hears a phase in
    words and the share of it that is done, 0 to 1. `extra_dirs` are read-only folders that may hold
    the built-in model, laid out like `cache_dir`. Raises CheckpointError.
    """
    if name == BUILTIN_MODEL:
        return fetch_builtin(
            SMOLLM2,
            cache_dir=cache_dir,
            offline=offline,
            on_progress=on_progress,
            extra_dirs=extra_dirs,
        )
    if path := _find_local(name):
        return path
    if _looks_like_path(name):
        raise CheckpointError(f"no such file or folder: {_to_path(name)}; {_FORMS}")
    if match := _HUB_ID.fullmatch(name):
        return _fetch_from_hub(match["repo_id"], match["file_name"], offline, on_progress)
    guess = difflib.get_close_matches(name.lower(), [BUILTIN_MODEL], cutoff=0.5)
    suggestion = f"did you mean {guess[0]}? Otherwise " if guess else ""
    raise CheckpointError(f"no model is called {name!r}: {suggestion}{_FORMS}")


def _find_local(name: str) -> Path | None:
    """The absolute path if something lies there; CheckpointError if it cannot be a model."""
    try:
        path = _to_path(name)
        if not name or not path.exists():
            return None
    except OSError as error:  # no permission; too long for a file name
        raise CheckpointError(f"cannot look for {name[:100]!r}: {error.strerror}") from error
    if path.is_file() and path.suffix.lower() != ".gguf":
        advice = "give the folder it lies in" if path.suffix == ".safetensors" else _FORMS
        raise CheckpointError(f"{path} is not a .gguf file; {advice}")
    return path


def _to_path(name: str) -> Path:
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:  # `~someone` who is not there
        return Path(name).absolute()


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith(("/", ".", "~"))
        or "\\" in name
        or (":" not in name and (name.endswith((".gguf", "/")) or name.count("/") > 1))
    )


def _fetch_from_hub(
    repo_id: str,
    file_name: str | None,
    offline: bool,
    on_progress: Callable[[str, float], None],
) -> Path:
    if file_name is not None and not file_name.endswith(".gguf"):
        raise CheckpointError(
            f"{repo_id}:{file_name}: after the colon comes the name of a .gguf file"
        )
    # huggingface_hub takes long to import: only when a hub id is really used.
    from engine.checkpoint.hub import fetch_hub_model

    return fetch_hub_model(repo_id, file_name, offline=offline, on_progress=on_progress)
