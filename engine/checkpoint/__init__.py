"""Models as they lie on disk: finding, reading and describing them. Torch-free."""

from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.checkpoint.quantization import dequantize
from engine.checkpoint.tensor_data import TensorData
from engine.checkpoint.tensor_shapes import tensor_shapes
from engine.checkpoint.tokenizer_data import TokenizerData

__all__ = [
    "Checkpoint",
    "ModelConfig",
    "RopeScaling",
    "TensorData",
    "TokenizerData",
    "dequantize",
    "open_checkpoint",
    "tensor_shapes",
]
