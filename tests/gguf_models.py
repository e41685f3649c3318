"""A transformers model as a GGUF file, written by the `gguf` package as llama.cpp's converter does.

What the converter changes on the way (names, the order of query and key rows, transposed matrices,
norms of Gemma, rotary scaling as tensors) is done here once more, from the model itself, so that
our reader is held against it and not against itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import transformers
from checkpoint_files import LLAMA_NAMES, Weights, add_value, interleaved
from gguf.quants import quantize
from numpy.typing import NDArray

Value = int | float | bool | str | list[str] | list[int]

_OLMO2_NAMES = LLAMA_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GEMMA2_NAMES = _OLMO2_NAMES | {"pre_feedforward_layernorm": "ffn_norm"}
_NAMES = {
    "llama": LLAMA_NAMES,
    "smollm3": LLAMA_NAMES,
    "qwen2": LLAMA_NAMES,
    "qwen3": LLAMA_NAMES,
    "phi3": LLAMA_NAMES | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
    "olmo2": _OLMO2_NAMES,
    "gemma": LLAMA_NAMES,
    "gemma2": _GEMMA2_NAMES,
    "gemma3": _GEMMA2_NAMES,
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
}
_LAYER = re.compile(r"(?:transformer\.h|model\.layers)\.([0-9]+)\.(.+)")
# Families whose rotary pairs are neighbours in GGUF, halves of a head apart in transformers.
_INTERLEAVED = ("llama", "smollm3")


def write_gguf_model(
    path: Path,
    family: str,
    model: transformers.PreTrainedModel,
    kind_of: Callable[[str], str] = lambda name: "F32",
    extra_tensors: Weights | None = None,
) -> Path:
    """`family` is `general.architecture`; `kind_of` says how the matrix of a GGUF name is stored.

    A vocabulary of meaningless tokens goes with it.
    """
    writer = gguf.GGUFWriter(path, family)
    writer.add_name("tiny")
    for key, value in _metadata(family, model.config).items():
        add_value(writer, f"{family}.{key}", value)
    for key, value in _vocabulary(model.config).items():
        add_value(writer, f"tokenizer.ggml.{key}", value)
    for name, parameter in model.named_parameters():  # a tied head is not among them
        weight = _converted(family, name, parameter.detach().numpy(), model.config)
        _add_tensor(writer, _gguf_name(family, name), weight, kind_of)
    for name, weight in {**_rope_tensors(model), **(extra_tensors or {})}.items():
        _add_tensor(writer, name, weight, kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(family: str, config: transformers.PreTrainedConfig) -> dict[str, Value]:
    """By keys without the family in front of them."""
    metadata: dict[str, Value] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    if family == "gpt2":
        return metadata | {
            "feed_forward_length": config.n_inner or 4 * config.hidden_size,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    metadata |= {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    head_dim = getattr(config, "head_dim", None)
    if head_dim is not None:
        metadata["attention.key_length"] = metadata["attention.value_length"] = head_dim
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    if family == "gemma":
        return metadata
    window = getattr(config, "sliding_window", None)
    if window is not None:
        metadata["attention.sliding_window"] = window
    if family == "gemma2":
        return metadata | {
            "attn_logit_softcapping": config.attn_logit_softcapping,
            "final_logit_softcapping": config.final_logit_softcapping,
        }
    rope = config.rope_parameters
    if family == "gemma3":
        metadata["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    metadata["rope.freq_base"] = rope["rope_theta"]
    if family == "phi3":
        metadata |= {
            "attention.sliding_window": window or 0,
            "rope.dimension_count": int(rope["partial_rotary_factor"] * head_dim),
            "rope.scaling.original_context_length": config.original_max_position_embeddings,
        }
    elif family in _INTERLEAVED:
        metadata |= {"rope.dimension_count": head_dim, "vocab_size": config.vocab_size}
    return metadata | _rope_scaling(rope, config)


def _rope_scaling(
    rope: dict[str, float], config: transformers.PreTrainedConfig
) -> dict[str, Value]:
    kind = rope["rope_type"]
    if kind == "longrope":
        trained = config.original_max_position_embeddings
        scale = config.max_position_embeddings / trained
        return {"rope.scaling.attn_factor": math.sqrt(1 + math.log(scale) / math.log(trained))}
    if kind not in ("linear", "yarn"):  # Llama 3's becomes a tensor
        return {}
    keys = {
        "rope_type": "type",
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "attention_factor": "yarn_attn_factor",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    given = {keys[key]: value for key, value in rope.items() if key in keys}
    return {f"rope.scaling.{key}": value for key, value in given.items() if value is not None}


def _rope_tensors(model: transformers.PreTrainedModel) -> Weights:
    """Divisors of frequencies, one for each rotary pair."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    kind = rope.get("rope_type")
    if kind == "longrope":
        names = ("short", "long")
        return {
            f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"], np.float32)
            for name in names
        }
    if kind != "llama3":
        return {}
    frequencies = model.model.rotary_emb.inv_freq.numpy()
    exponents = np.arange(len(frequencies)) / len(frequencies)
    return {"rope_freqs.weight": (rope["rope_theta"] ** -exponents / frequencies).astype("f4")}


def _vocabulary(config: transformers.PreTrainedConfig) -> dict[str, Value]:
    tokens = [f"t{i}" for i in range(config.vocab_size - 1)] + ["t0t1"]
    vocabulary: dict[str, Value] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [1] * len(tokens),
        "merges": ["t0 t1"],
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token_id = getattr(config, f"{name}_token_id")
        if token_id is not None:
            vocabulary[f"{key}_token_id"] = token_id
    return vocabulary


def _converted(
    family: str, name: str, weight: NDArray[np.float32], config: transformers.PreTrainedConfig
) -> NDArray[np.float32]:
    if family == "gpt2" and weight.ndim == 2 and ".c_" in name:
        return weight.T
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    if family in _INTERLEAVED and name.endswith(("q_proj.weight", "k_proj.weight")):
        is_query = name.endswith("q_proj.weight")
        num_heads = config.num_attention_heads if is_query else config.num_key_value_heads
        return interleaved(weight, num_heads)
    return weight


def _gguf_name(family: str, name: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    if match := _LAYER.fullmatch(stem):
        return f"blk.{match[1]}.{_NAMES[family][match[2]]}.{suffix}"
    return f"{_NAMES[family][stem]}.{suffix}"


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, weight: NDArray[np.float32], kind_of: Callable[[str], str]
) -> None:
    # Vectors are never quantized.
    kind = gguf.GGMLQuantizationType[kind_of(name) if weight.ndim > 1 else "F32"]
    writer.add_tensor(name, quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)
