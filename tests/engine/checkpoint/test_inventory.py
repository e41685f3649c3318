"""engine/checkpoint/inventory.py: what is listed can be served without a network, and only that."""

from __future__ import annotations

import os
from pathlib import Path

from hub_server import Hub, serving

from engine.checkpoint import CachedModel, cached_models
from engine.checkpoint.builtin import SMOLLM2
from engine.checkpoint.hub import fetch_hub_model

REPO = "somebody/tiny-model"
WEIGHTS = {"a.safetensors": b"a" * 1000, "b.safetensors": b"b" * 500}
FILES = {"config.json": b"{}", **WEIGHTS, "tiny.gguf": b"g" * 700, "other.gguf": b"o" * 70}


def put_builtin(cache_dir: Path, num_bytes: int = SMOLLM2.member_size) -> Path:
    """A file of the built-in model's name, all holes."""
    path = SMOLLM2.path_in(cache_dir)
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, num_bytes)
    return path


def fetch(hub: Hub, hub_cache: Path, file_name: str | None = None) -> Path:
    return fetch_hub_model(
        REPO,
        file_name,
        offline=False,
        on_progress=lambda phase, share: None,
        endpoint=hub.endpoint,
        hub_cache=hub_cache,
    )


def test_nothing_there(tmp_path: Path) -> None:
    assert cached_models(tmp_path / "none", hub_cache=tmp_path / "no hub") == []
    assert list(tmp_path.iterdir()) == []


def test_the_built_in_model_once_and_the_first_place_counts(tmp_path: Path) -> None:
    mine, baked = put_builtin(tmp_path / "cache"), put_builtin(tmp_path / "baked")
    hub_cache = tmp_path / "no hub"
    expected = CachedModel(SMOLLM2.name, SMOLLM2.member_size, "GGUF", mine)
    assert cached_models(tmp_path / "cache", hub_cache=hub_cache) == [expected]
    extra_dirs = [tmp_path / "none", tmp_path / "baked"]
    [found] = cached_models(tmp_path / "cache", extra_dirs=extra_dirs, hub_cache=hub_cache)
    assert found.path == baked


def test_half_a_file_is_not_listed(tmp_path: Path) -> None:
    put_builtin(tmp_path, SMOLLM2.member_size - 1)
    assert cached_models(tmp_path, hub_cache=tmp_path / "no hub") == []


def test_models_of_the_hub(tmp_path: Path) -> None:
    hub_cache = tmp_path / "hub"
    with serving(Hub(REPO, FILES)) as hub:
        gguf = fetch(hub, hub_cache, "tiny.gguf")
        # A config alone, or another file of the repository, is not the model.
        assert cached_models(tmp_path, hub_cache=hub_cache) == [
            CachedModel(f"{REPO}:tiny.gguf", 700, "GGUF", gguf)
        ]
        folder = fetch(hub, hub_cache)
    assert cached_models(tmp_path, hub_cache=hub_cache) == [
        CachedModel(REPO, 1500, "safetensors", folder),
        CachedModel(f"{REPO}:tiny.gguf", 700, "GGUF", gguf),
    ]
