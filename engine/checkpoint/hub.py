"""Models of the Hugging Face hub, in the Hugging Face cache that the user's other tools share.

Downloads a snapshot of the files that we read (weights in safetensors only: never a pickle, never
code), or one GGUF file. Importing this module imports huggingface_hub, which takes its time: it is
imported late, and only for models of the hub.
"""

from __future__ import annotations

import glob
import json
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CacheNotFound,
    HfApi,
    constants,
    scan_cache_dir,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

from engine.checkpoint.cache import check_free_space, storage_errors
from engine.checkpoint.gguf_parts import part_names
from engine.errors import CheckpointError, ModelAbsentError

_WANTED = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "*.tiktoken",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.safetensors",
    "model.safetensors.index.json",
]
# Files in folders are variants for other programs; "consolidated" repeats all weights.
_UNWANTED = ["*/*", "consolidated*.safetensors"]
_MAX_REASON_CHARS = 200


def fetch_hub_model(
    repo_id: str,
    file_name: str | None,
    *,
    offline: bool,
    on_progress: Callable[[str, float], None],
    endpoint: str | None = None,
    hub_cache: Path | None = None,
) -> Path:
    """The folder of the newest snapshot of `repo_id`, or the path of its GGUF file `file_name`,
    whose other parts come with it.

    Without a network (or `offline`) a complete cached snapshot is good enough. `on_progress` may be
    called from other threads. `endpoint` and `hub_cache` default to Hugging Face's own settings
    (HF_ENDPOINT, HF_HUB_CACHE), as does the token (HF_TOKEN). Raises CheckpointError.
    """
    cache = hub_cache or Path(constants.HF_HUB_CACHE)
    if offline:
        if cached := _find_cached(repo_id, file_name, cache):
            return cached
        raise ModelAbsentError(
            f"{repo_id} is not in {cache} and may not be downloaded (offline); "
            "run once with a network, or give a path"
        )
    try:
        return _download(repo_id, file_name, endpoint, cache, on_progress)
    except CheckpointError:
        raise
    except RepositoryNotFoundError as error:
        raise _refused(repo_id, error) from error
    # huggingface_hub lets the errors of its HTTP library through, and that library has changed.
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise _refused(repo_id, error) from error
        if cached := _find_cached(repo_id, file_name, cache):
            on_progress(f"the hub cannot be reached, using the cached {repo_id}", 1.0)
            return cached
        raise CheckpointError(
            f"cannot download {repo_id}: {_reason(error)}; check the network, or give a path"
        ) from error


def cached_hub_models(hub_cache: Path | None = None) -> list[tuple[str, Path]]:
    """Name and path of each model that `fetch_hub_model` can give offline, in order of names.

    A snapshot with weights in safetensors is a folder, each GGUF file a model of its own.
    """
    cache = hub_cache or Path(constants.HF_HUB_CACHE)
    try:
        repos = scan_cache_dir(cache).repos
    except CacheNotFound:
        return []
    names: list[tuple[str, str | None]] = []
    for repo in repos:
        if repo.repo_type == "model":
            folders = [revision.snapshot_path for revision in repo.revisions]
            ggufs = {
                part_names(str(p.relative_to(f)))[0] for f in folders for p in f.rglob("*.gguf")
            }
            names += [(repo.repo_id, file_name) for file_name in (None, *ggufs)]
    found = []
    for repo_id, file_name in names:
        if path := _find_cached(repo_id, file_name, cache):
            found.append((repo_id if file_name is None else f"{repo_id}:{file_name}", path))
    return sorted(found)


def _download(
    repo_id: str,
    file_name: str | None,
    endpoint: str | None,
    cache: Path,
    on_progress: Callable[[str, float], None],
) -> Path:
    phase = f"downloading {repo_id}"
    on_progress(phase, 0.0)
    info = HfApi(endpoint=endpoint).model_info(repo_id, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    wanted = _choose(repo_id, file_name, sizes)

    missing = [name for name in wanted if not _is_cached(repo_id, name, cache, info.sha)]
    num_bytes = sum(sizes[name] for name in missing)
    with storage_errors(cache, num_bytes):
        cache.mkdir(parents=True, exist_ok=True)
        check_free_space(cache, num_bytes)
        folder = snapshot_download(
            repo_id,
            cache_dir=cache,
            endpoint=endpoint,
            allow_patterns=[glob.escape(name) for name in wanted],
            tqdm_class=_byte_counter(num_bytes, lambda share: on_progress(phase, share)),
        )
    on_progress(phase, 1.0)
    return Path(folder) if file_name is None else Path(folder, file_name)


def _choose(repo_id: str, file_name: str | None, names: dict[str, int]) -> list[str]:
    """The files to fetch; CheckpointError where they would not make a model."""
    ggufs = [name for name in names if name.endswith(".gguf")]
    hint = f"; name one of its GGUF files: {repo_id}:{ggufs[0]}" if ggufs else ""
    if file_name is not None:
        parts = part_names(file_name)
        for part in parts:
            if part not in names:
                raise CheckpointError(f"{repo_id} on the hub has no file {part}{hint}")
        return parts

    wanted = [
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in _WANTED)
        and not any(fnmatch(name, pattern) for pattern in _UNWANTED)
    ]
    if "config.json" not in wanted:
        raise CheckpointError(f"{repo_id} on the hub has no config.json{hint}")
    if not any(name.endswith(".safetensors") for name in wanted):
        raise CheckpointError(
            f"{repo_id} on the hub has no weights in safetensors, and other forms (.bin, .pt) are "
            f"never loaded, because they can run code{hint}"
        )
    return wanted


def _find_cached(repo_id: str, file_name: str | None, cache: Path) -> Path | None:
    """The newest snapshot that was fetched before, if it is complete; no network."""
    parts = [] if file_name is None else part_names(file_name)
    try:
        folder = Path(
            snapshot_download(
                repo_id,
                cache_dir=cache,
                local_files_only=True,
                allow_patterns=_WANTED if file_name is None else [glob.escape(p) for p in parts],
                ignore_patterns=_UNWANTED if file_name is None else None,
            )
        )
    except (OSError, ValueError):
        return None
    if file_name is not None:
        is_whole = all((folder / part).is_file() for part in parts)
        return folder / file_name if is_whole else None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except FileNotFoundError:
        shards = {path.name for path in folder.glob("*.safetensors")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    needed = {"config.json"} | shards
    return bool(shards) and all((folder / name).is_file() for name in needed)


def _is_cached(repo_id: str, name: str, cache: Path, revision: str | None) -> bool:
    found = try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=revision)
    return isinstance(found, str)


def _byte_counter(num_bytes: int, on_share: Callable[[float], None]) -> type[Any]:
    """A progress bar class for huggingface_hub that shows nothing and tells the share that came.

    huggingface_hub runs several bars at once, some of them for the same bytes: the one that is
    furthest counts.
    """
    lock = threading.Lock()
    furthest = 0

    class ByteCounter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts_bytes = kwargs.get("unit") == "B"
            self.num_bytes = 0
            super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            nonlocal furthest
            if not self.counts_bytes:
                return
            with lock:
                self.num_bytes += int(n or 0)
                if furthest < self.num_bytes <= num_bytes:
                    furthest = self.num_bytes
                    on_share(furthest / num_bytes)

    return ByteCounter


def _refused(repo_id: str, error: HfHubHTTPError) -> CheckpointError:
    status = error.response.status_code
    # The hub says 401 for what does not exist as well, unless one is logged in.
    return CheckpointError(
        f"the hub does not give out {repo_id} (HTTP {status}): check the spelling; for a private "
        "or gated model accept its terms on its page and set HF_TOKEN"
    )


def _reason(error: BaseException) -> str:
    """One line: the first cause has what happened, what is above it is advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_MAX_REASON_CHARS]
