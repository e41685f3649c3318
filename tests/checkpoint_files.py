"""Builds small checkpoints for tests: GGUF by the official writer, and Hugging Face folders.

Weights are random; names and shapes are what `transformers` gives such a model.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.numpy import save_file

Weights = dict[str, NDArray[np.float32]]

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 32
TOKENS = ["a", "b", "ab", "<|start|>", "<|end|>", "<|turn|>", "c", "d"]
TOKEN_TYPES = [1, 1, 1, 3, 3, 3, 1, 1]
MERGES = ["a b"]
VOCAB = len(TOKENS)

HUGGINGFACE_NAMES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What GGUF calls the parts of a Llama.
LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def random_weights(family: str = "llama", *, tied: bool = False) -> Weights:
    """Every weight of a small model by its Hugging Face name."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        sizes = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
        for name, size in sizes.items():
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (size, HIDDEN)
            if family == "qwen2":
                shapes[f"{prefix}self_attn.{name}_proj.bias"] = (size,)
        if family == "qwen3":
            shapes[f"{prefix}self_attn.q_norm.weight"] = (HEAD_DIM,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (HEAD_DIM,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes[f"{prefix}mlp.gate_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{prefix}mlp.up_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes[f"{prefix}input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    random = np.random.default_rng(7)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write_huggingface(
    folder: Path,
    family: str = "llama",
    *,
    weights: Weights | None = None,
    **config: Any,
) -> Path:
    """A Hugging Face folder; `config` overrides keys of `config.json` (None removes one)."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "architectures": [HUGGINGFACE_NAMES[family]],
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": 3,
        "eos_token_id": 4,
    }
    values.update(config)
    values = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(random_weights(family) if weights is None else weights, folder / "model.safetensors")
    return folder


def write_gguf(
    path: Path,
    family: str = "llama",
    *,
    weights: Weights | None = None,
    dtype: str = "F32",
    extra_tensors: Weights | None = None,
    **metadata: Any,
) -> Path:
    """A GGUF file as llama.cpp's converter would write it, matrices in `dtype`.

    `metadata` overrides keys; `__` stands for a dot, a leading `model` for the family (None
    removes a key).
    """
    values: dict[str, Any] = {
        "model.context_length": 128,
        "model.embedding_length": HIDDEN,
        "model.feed_forward_length": INNER,
        "model.block_count": LAYERS,
        "model.attention.head_count": HEADS,
        "model.attention.head_count_kv": KV_HEADS,
        "model.attention.key_length": HEAD_DIM,
        "model.attention.value_length": HEAD_DIM,
        "model.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": TOKEN_TYPES,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 3,
        "tokenizer.ggml.eos_token_id": 4,
    }
    values.update({key.replace("__", "."): value for key, value in metadata.items()})
    writer = gguf.GGUFWriter(path, family)
    for key, value in values.items():
        if value is not None:
            add_value(
                writer, key.replace("model.", f"{family}.", 1) if key[0] == "m" else key, value
            )
    for name, weight in (random_weights(family) if weights is None else weights).items():
        _add_tensor(writer, family, name, weight, dtype)
    for name, weight in (extra_tensors or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def raw_gguf(
    *,
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
) -> bytes:
    """A GGUF file from its pieces, each of which (and each count) may be a lie."""
    keys, tensors = keys or [], tensors or []
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(keys) if num_keys is None else num_keys,
    )
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def raw_string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def raw_tensor(name: bytes, dims: list[int], type_id: int = 0, offset: int = 0) -> bytes:
    return raw_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensor(
    writer: gguf.GGUFWriter, family: str, name: str, weight: NDArray[np.float32], dtype: str
) -> None:
    if family == "llama":
        num_heads = {"q_proj.weight": HEADS, "k_proj.weight": KV_HEADS}
        for ending, heads in num_heads.items():
            if name.endswith(ending):
                weight = interleaved(weight, heads)
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        gguf_name = f"blk.{layer}.{LLAMA_NAMES[part]}.{suffix}"
    else:
        gguf_name = f"{LLAMA_NAMES[stem]}.{suffix}"
    # Vectors are never quantized.
    kind = gguf.GGMLQuantizationType[dtype if weight.ndim > 1 else "F32"]
    writer.add_tensor(gguf_name, quantize(weight, kind), raw_dtype=kind)


def interleaved(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Row i of a head's first half to row 2i, row i of its second half to row 2i + 1."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)
