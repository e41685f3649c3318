"""The models that lie on this machine already: the built-in one, and those of the Hugging Face hub.

Only what could be served without a network is listed. Opens no model and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint.builtin import SMOLLM2, find_builtin
from engine.checkpoint.gguf_parts import part_names


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model on the disk. `name` is what `resolve_model` takes; `format` is GGUF or safetensors.

    `path` is the model's file or folder, `num_bytes` the size of its weights.
    """

    name: str
    num_bytes: int
    format: str
    path: Path


def cached_models(
    cache_dir: Path, *, extra_dirs: Sequence[Path] = (), hub_cache: Path | None = None
) -> list[CachedModel]:
    """What lies in `extra_dirs` and `cache_dir`, then in the hub's cache, there by name.

    `hub_cache` defaults to Hugging Face's own setting (HF_HUB_CACHE).
    """
    found = []
    if path := find_builtin(SMOLLM2, (*extra_dirs, cache_dir)):
        found.append(CachedModel(SMOLLM2.name, SMOLLM2.member_size, "GGUF", path))
    # huggingface_hub takes long to import: not for those who only resolve a name.
    from engine.checkpoint.hub import cached_hub_models

    for name, path in cached_hub_models(hub_cache):
        parts = [path.with_name(part) for part in part_names(path.name)]
        weights = parts if path.is_file() else list(path.glob("*.safetensors"))
        kind = "GGUF" if path.is_file() else "safetensors"
        found.append(CachedModel(name, sum(file.stat().st_size for file in weights), kind, path))
    return found
