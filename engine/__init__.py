"""The engine: token ids in, token ids out. It knows nothing of text, tokenizers or HTTP.

This is all that may be imported from outside. Importing it loads no torch: the model lives in a
child process that `EngineClient` starts and keeps alive.

The client's names are looked up when they are asked for: what speaks to the child needs msgspec,
and whoever runs the engine in a process of its own (benchmarks on a borrowed GPU) may not have it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from engine.checkpoint import (
    BUILTIN_MODEL,
    AddedToken,
    CachedModel,
    Checkpoint,
    ModelConfig,
    TokenizerData,
    cached_models,
    default_cache_dir,
    open_checkpoint,
    resolve_model,
)
from engine.config import EngineConfig
from engine.errors import (
    CheckpointError,
    EngineDeadError,
    EngineStartError,
    ModelAbsentError,
    OctavoError,
    SlowReaderError,
)
from engine.examine import EngineProspect, Machine, examine_engine, examine_machine
from engine.info import EngineInfo
from engine.request import (
    BeamSearch,
    ChoiceOutput,
    Failure,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
    beam_search_blocks,
)
from engine.stats import STEP_TOKEN_BOUNDS, EngineHistory, EngineStats

if TYPE_CHECKING:
    from engine.client import Engine, EngineClient, OutputStream

__all__ = [
    "AddedToken",
    "BUILTIN_MODEL",
    "BeamSearch",
    "CachedModel",
    "Checkpoint",
    "CheckpointError",
    "ChoiceOutput",
    "Engine",
    "EngineClient",
    "EngineConfig",
    "EngineDeadError",
    "EngineHistory",
    "EngineInfo",
    "EngineProspect",
    "EngineStartError",
    "EngineStats",
    "Failure",
    "FinishReason",
    "Machine",
    "ModelAbsentError",
    "ModelConfig",
    "OctavoError",
    "OutputStream",
    "Request",
    "STEP_TOKEN_BOUNDS",
    "SamplingParams",
    "SlowReaderError",
    "TokenLogprobs",
    "TokenizerData",
    "beam_search_blocks",
    "cached_models",
    "default_cache_dir",
    "examine_engine",
    "examine_machine",
    "open_checkpoint",
    "resolve_model",
]

_OF_THE_CLIENT = ("Engine", "EngineClient", "OutputStream")


def __getattr__(name: str) -> object:
    """Called for names that this module does not have."""
    if name not in _OF_THE_CLIENT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("engine.client"), name)
