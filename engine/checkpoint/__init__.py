"""Finding and reading models: names, downloads, headers, vocabulary, weights. No torch, no text."""

from __future__ import annotations

from engine.checkpoint.builtin import BUILTIN_MODEL
from engine.checkpoint.cache import default_cache_dir
from engine.checkpoint.resolve import resolve_model

__all__ = ["BUILTIN_MODEL", "default_cache_dir", "resolve_model"]
