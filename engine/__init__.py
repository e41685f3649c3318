"""The engine: token ids in, token ids out. It knows nothing of text, tokenizers or HTTP.

This is all that may be imported from outside. Importing it loads no torch: the model lives in a
child process that `EngineClient` starts and keeps alive.
"""

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
from engine.client import Engine, EngineClient, OutputStream
from engine.config import EngineConfig
from engine.errors import CheckpointError, EngineDeadError, EngineStartError, OctavoError
from engine.examine import EngineProspect, Machine, examine_engine, examine_machine
from engine.messages import EngineInfo
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

__all__ = [
    "AddedToken",
    "BUILTIN_MODEL",
    "STEP_TOKEN_BOUNDS",
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
    "ModelConfig",
    "OctavoError",
    "OutputStream",
    "Request",
    "SamplingParams",
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
