"""Models as they lie on disk: finding, fetching, reading and describing them. No torch, no text."""

from engine.checkpoint.builtin import BUILTIN_MODEL
from engine.checkpoint.cache import default_cache_dir
from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.checkpoint.grouped import GroupedWeight
from engine.checkpoint.inventory import CachedModel, cached_models
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.checkpoint.quantization import dequantize, read_grouped
from engine.checkpoint.resolve import resolve_model
from engine.checkpoint.tensor_data import TensorData
from engine.checkpoint.tensor_shapes import tensor_shapes
from engine.checkpoint.tokenizer_data import TokenizerData
from engine.checkpoint.vocabulary_files import AddedToken

__all__ = [
    "AddedToken",
    "BUILTIN_MODEL",
    "CachedModel",
    "Checkpoint",
    "GroupedWeight",
    "ModelConfig",
    "RopeScaling",
    "TensorData",
    "TokenizerData",
    "cached_models",
    "default_cache_dir",
    "dequantize",
    "open_checkpoint",
    "read_grouped",
    "resolve_model",
    "tensor_shapes",
]
