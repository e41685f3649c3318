"""Projections that a checkpoint keeps in one tensor (Phi-3), cut into the ones that models name.

Rows are whole blocks in every format, so each part is a view of the tensor's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.tensor_data import TensorData
from engine.errors import CheckpointError


def split_fused(
    tensors: Mapping[str, TensorData], config: ModelConfig, source: str
) -> dict[str, TensorData]:
    """The tensors by the names of their parts. Raises CheckpointError where rows do not add up."""
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    inner = config.intermediate_size
    parts_of = {
        "self_attn.qkv_proj.weight": {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size},
        "mlp.gate_up_proj.weight": {"gate_proj": inner, "up_proj": inner},
    }
    split = dict(tensors)
    for name in tensors:
        for ending, parts in parts_of.items():
            if name.endswith(f".{ending}"):
                stem = name.removesuffix(".weight").rpartition(".")[0]
                split.update(_split(split.pop(name), parts, stem, f"{source}: the weight {name}"))
    return split


def _split(
    tensor: TensorData, parts: dict[str, int], stem: str, what: str
) -> dict[str, TensorData]:
    num_rows = sum(parts.values())
    if not tensor.shape or tensor.shape[0] != num_rows:
        raise CheckpointError(
            f"{what} has the shape {list(tensor.shape)}; the config asks for {num_rows} rows"
        )
    row_bytes = tensor.data.size // num_rows
    split, start = {}, 0
    for part, size in parts.items():
        data = tensor.data[start * row_bytes : (start + size) * row_bytes]
        split[f"{stem}.{part}.weight"] = TensorData(tensor.dtype, (size, *tensor.shape[1:]), data)
        start += size
    return split
