"""Fixtures that every part of the tests may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from engine.checkpoint import BUILTIN_MODEL, default_cache_dir, resolve_model

# As the supervisor sets it for the engine: read when torch loads, so before any test imports it.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
# Read when triton is imported, which transformers does too: without a GPU its kernels are
# interpreted. On the CPU the engine itself never imports triton.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A busy machine is not a slow example.
settings.register_profile("octavo", deadline=None)
settings.load_profile("octavo")


@pytest.fixture(scope="session")
def builtin_model() -> Path:
    """The built-in model's GGUF file, in the user's real cache: downloaded once, then kept."""
    cache_dir = Path(os.environ.get("OCTAVO_CACHE") or default_cache_dir())
    return resolve_model(
        BUILTIN_MODEL, cache_dir=cache_dir, offline=False, on_progress=lambda phase, share: None
    )
