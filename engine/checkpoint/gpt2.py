"""GPT-2 as both formats write it: its config, the names of its weights and their shapes.

Radford et al., 2019: learned positions, norms with biases before attention and MLP, a fused QKV
projection. Biases are everywhere, the head is tied to the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.checkpoint import architecture as limits
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.tensor_data import TensorData
from engine.errors import CheckpointError

EMBEDDING = "transformer.wte.weight"
LM_HEAD = "lm_head.weight"
# Names for one formula: GELU by its approximation with tanh.
_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
# What would change the numbers and is not implemented, and what it must be.
_UNSUPPORTED_FLAGS = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# Causal masks, which old files carry as if they were weights.
_MASK = re.compile(r"transformer\.h\.[0-9]+\.attn\.(masked_)?bias")
_CONV1D = re.compile(r"transformer\.h\.[0-9]+\.(attn|mlp)\.c_(attn|fc|proj)\.weight")
GGUF_LAYER = "transformer.h"
GGUF_NAMES = {
    "token_embd.weight": EMBEDDING,
    "position_embd.weight": "transformer.wpe.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": LM_HEAD,
}
GGUF_LAYER_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def huggingface_gpt2(config: Fields) -> ModelConfig:
    """The shape from a `config.json`. Its keys have names of their own, such as `n_embd`."""
    for key, wanted in _UNSUPPORTED_FLAGS.items():
        if config.flag(key, wanted) != wanted:
            raise config.error(key, f"is {str(not wanted).lower()}, which is not supported")
    activation = config.text("activation_function", "gelu_new")
    if activation not in _ACTIVATIONS:
        supported = " and ".join(_ACTIVATIONS)
        raise config.error(
            "activation_function", f"is {quote(activation)}; supported are {supported}"
        )
    hidden_size = config.integer("n_embd", high=limits.MAX_WIDTH)
    return _config(
        config,
        vocab_size=config.integer("vocab_size", high=limits.MAX_VOCAB_SIZE),
        hidden_size=hidden_size,
        intermediate_size=config.integer("n_inner", 4 * hidden_size, high=4 * limits.MAX_WIDTH),
        num_layers=config.integer("n_layer", high=limits.MAX_LAYERS),
        num_heads=config.integer("n_head", high=limits.MAX_HEADS),
        max_model_len=config.integer("n_positions", high=limits.MAX_CONTEXT),
        eps=config.number("layer_norm_epsilon", 1e-5, high=1.0),
        is_tied=config.flag("tie_word_embeddings", True),
    )


def gguf_gpt2(metadata: Fields, vocab_size: int, tensors: Mapping[str, TensorData]) -> ModelConfig:
    """The shape from GGUF metadata. `tensors` go by their GGUF names."""
    hidden_size = metadata.integer("gpt2.embedding_length", high=limits.MAX_WIDTH)
    return _config(
        metadata,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=metadata.integer(
            "gpt2.feed_forward_length", 4 * hidden_size, high=limits.MAX_WIDTH
        ),
        num_layers=metadata.integer("gpt2.block_count", high=limits.MAX_LAYERS),
        num_heads=metadata.integer("gpt2.attention.head_count", high=limits.MAX_HEADS),
        max_model_len=metadata.integer("gpt2.context_length", high=limits.MAX_CONTEXT),
        eps=metadata.number("gpt2.attention.layer_norm_epsilon", high=1.0),
        is_tied="output.weight" not in tensors,
    )


def _config(
    fields: Fields,
    *,
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    max_model_len: int,
    eps: float,
    is_tied: bool,
) -> ModelConfig:
    head_dim = hidden_size // num_heads
    if head_dim * num_heads != hidden_size or head_dim % 2 or head_dim > limits.MAX_HEAD_DIM:
        raise CheckpointError(
            f"{fields.source}: a width of {hidden_size} makes no heads of an even size, up to "
            f"{limits.MAX_HEAD_DIM}, for {num_heads} heads"
        )
    return ModelConfig(
        architecture="gpt2",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_model_len=max_model_len,
        norm_eps=eps,
        rope_theta=0.0,
        tie_word_embeddings=is_tied,
        num_positions=max_model_len,
    )


def gpt2_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, in the order of the forward pass; matrices are [out, in]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        "transformer.wpe.weight": (config.num_positions, hidden),
    }

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    for layer in range(config.num_layers):
        prefix = f"transformer.h.{layer}"
        add(f"{prefix}.ln_1", hidden)
        add(f"{prefix}.attn.c_attn", 3 * hidden, hidden)
        add(f"{prefix}.attn.c_proj", hidden, hidden)
        add(f"{prefix}.ln_2", hidden)
        add(f"{prefix}.mlp.c_fc", inner, hidden)
        add(f"{prefix}.mlp.c_proj", hidden, inner)
    add("transformer.ln_f", hidden)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, hidden)
    return shapes


def from_huggingface(tensors: Mapping[str, TensorData], source: str) -> dict[str, TensorData]:
    """The weights of a folder by the names that they have here: with `transformer.` in front, which
    the first files lack, and without the masks."""
    named: dict[str, TensorData] = {}
    for name, tensor in tensors.items():
        has_full_name = name.startswith("transformer.") or name == LM_HEAD
        full_name = name if has_full_name else f"transformer.{name}"
        if full_name in named:
            raise CheckpointError(f"{source}: the weight {quote(full_name)} is there twice")
        if not _MASK.fullmatch(full_name):
            named[full_name] = tensor
    return named


def is_transposed(name: str) -> bool:
    """Whether the weight of this name is stored as [in, out] in a Hugging Face folder."""
    return _CONV1D.fullmatch(name) is not None
