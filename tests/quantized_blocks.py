"""Random quantized weights of every GGUF type, and a small model whose widths they fit.

The `gguf` package writes some of the types; of the others it only knows the numbers, so their
blocks are random bytes with scales of a sensible size.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, TensorData

QUANTIZED = [name for name, layout in BLOCK_LAYOUTS.items() if layout.block_size > 1]
STD = 0.05

# Where the float16 factors of a block lie, in 16-bit words.
_FACTORS = {
    **{"Q2_K": (40, 41), "Q3_K": (54,), "Q4_K": (0, 1), "Q5_K": (0, 1), "Q6_K": (104,)},
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"), (0,)),
    **dict.fromkeys(("IQ3_S", "IQ4_NL", "IQ4_XS"), (0,)),
}

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 96, 256, 512, 2, 4, 2, 64
_MATRICES = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


def random_blocks(dtype: str, shape: tuple[int, int], seed: int = 1) -> NDArray[np.uint8]:
    """The bytes of a matrix, row by row."""
    generator = np.random.default_rng(seed)
    if dtype not in (*_FACTORS, "IQ1_M", "Q8_K"):
        numbers = generator.normal(0, STD, shape).astype(np.float32)
        return quantize(numbers, gguf.GGMLQuantizationType[dtype]).reshape(-1).view(np.uint8)
    layout = BLOCK_LAYOUTS[dtype]
    num_blocks = shape[0] * shape[1] // layout.block_size
    blocks = generator.integers(0, 256, (num_blocks, layout.block_bytes), np.uint8)
    if dtype == "Q8_K":
        blocks[:, :4] = generator.uniform(1e-4, 1e-3, (num_blocks, 1)).astype("<f4").view(np.uint8)
        return blocks.reshape(-1)
    _set_factors(dtype, blocks, np.ones(num_blocks))
    unit = dequantize(blocks, gguf.GGMLQuantizationType[dtype]).std()
    _set_factors(dtype, blocks, generator.uniform(0.5, 1.5, num_blocks) * STD / unit)
    return blocks.reshape(-1)


def random_tensor(dtype: str, shape: tuple[int, int]) -> TensorData:
    return TensorData(dtype, shape, random_blocks(dtype, shape))


def write_wide_gguf(path: Path, dtype: str, matrices_as: str | None = None) -> Path:
    """A Llama with every matrix in `dtype`, or the same numbers written as `matrices_as`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {"token_embd": (VOCAB, HIDDEN), "output": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _MATRICES.items()}
    for seed, (name, shape) in enumerate(shapes.items()):
        kind = gguf.GGMLQuantizationType[dtype]
        data = random_blocks(dtype, shape, seed).reshape(shape[0], -1)
        if matrices_as is not None:
            data = quantize(dequantize(data, kind), gguf.GGMLQuantizationType[matrices_as])
            kind = gguf.GGMLQuantizationType[matrices_as]
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    generator = np.random.default_rng(99)
    norms = [f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn")]
    for name in (*norms, "output_norm"):
        writer.add_tensor(f"{name}.weight", generator.normal(1, 0.2, HIDDEN).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _set_factors(dtype: str, blocks: NDArray[np.uint8], values: NDArray[np.float64]) -> None:
    bits = values.astype(np.float16).view(np.uint16)
    words = blocks.view(np.uint16)
    if dtype != "IQ1_M":
        words[:, _FACTORS[dtype]] = bits[:, None]
        return
    for part in range(4):  # a quarter above each of the last four words
        words[:, 24 + part] = words[:, 24 + part] & 0xFFF | (bits >> (4 * part) & 15) << 12
