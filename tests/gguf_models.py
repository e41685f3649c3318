"""A transformers model as a GGUF file, written by the `gguf` package as llama.cpp's converter does.

What the converter changes on the way (names, transposed matrices, norms of Gemma) is done here once
more, by the family's own row, so that our reader is held against it and not against itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import transformers
from gguf.quants import quantize
from numpy.typing import NDArray

Value = int | float | bool | str | list[str] | list[int]
Weights = dict[str, NDArray[np.float32]]

_GEMMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
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
_NAMES = {
    "gpt2": {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
    "gemma": _GEMMA_NAMES | {"post_attention_layernorm": "ffn_norm"},
    "gemma2": _GEMMA_NAMES,
    "gemma3": _GEMMA_NAMES,
}
_LAYER = re.compile(r"(?:transformer\.h|model\.layers)\.([0-9]+)\.(.+)")


def write_gguf_model(
    path: Path,
    family: str,
    model: transformers.PreTrainedModel,
    metadata: dict[str, Value],
    kind_of: Callable[[str], str] = lambda name: "F32",
    extra_tensors: Weights | None = None,
) -> Path:
    """`metadata` without the family in front of its keys; `kind_of` says how the matrix of a GGUF
    name is stored. A vocabulary of meaningless tokens goes with it."""
    writer = gguf.GGUFWriter(path, family)
    tokens = [f"t{i}" for i in range(model.config.vocab_size - 1)] + ["t0t1"]
    for key, value in {**_vocabulary(tokens), **metadata}.items():
        _add(writer, key if key.startswith("tokenizer.") else f"{family}.{key}", value)
    for name, parameter in model.named_parameters():  # a tied head is not among them
        weight = parameter.detach().numpy()
        if family == "gpt2" and weight.ndim == 2 and ".c_" in name:
            weight = weight.T
        if family.startswith("gemma") and name.endswith("norm.weight"):
            weight = weight + 1
        _add_tensor(writer, _gguf_name(family, name), weight, kind_of)
    for name, weight in (extra_tensors or {}).items():
        _add_tensor(writer, name, weight, kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(tokens: list[str]) -> dict[str, Value]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": ["t0 t1"],
        "tokenizer.ggml.eos_token_id": 2,
    }


def _gguf_name(family: str, name: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    if match := _LAYER.fullmatch(stem):
        return f"blk.{match[1]}.{_NAMES[family][match[2]]}.{suffix}"
    return f"{_NAMES[family][stem]}.{suffix}"


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, weight: NDArray[np.float32], kind_of: Callable[[str], str]
) -> None:
    # Vectors are never quantized.
    kind = gguf.GGMLQuantizationType[kind_of(name) if weight.ndim > 1 else "F32"]
    writer.add_tensor(name, quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)
