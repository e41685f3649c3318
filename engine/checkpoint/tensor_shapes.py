"""What a checkpoint must hold for a config: the name and the shape of every weight.

Names are Hugging Face's parameter names, which are Octavo's own. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.checkpoint.fields import quote
from engine.checkpoint.gpt2 import gpt2_shapes
from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.tensor_data import TensorData
from engine.errors import CheckpointError

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, in the order of the forward pass. A tied head has none."""
    if config.architecture == "gpt2":
        return gpt2_shapes(config)
    of_layer = _LAYERS.get(config.architecture, _llama_layer)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    for layer in range(config.num_layers):
        for name, shape in of_layer(config).items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    shapes["model.norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def _llama_layer(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, of_head = config.hidden_size, (config.head_dim,)
    norms = {"q_norm": of_head, "k_norm": of_head} if config.qk_norm else {}
    return {
        "input_layernorm.weight": (hidden,),
        **_attention(config, norms),
        "post_attention_layernorm.weight": (hidden,),
        **_gated_mlp(config),
    }


def _olmo2_layer(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        **_attention(config, {"q_norm": (q_size,), "k_norm": (kv_size,)}),
        "post_attention_layernorm.weight": (config.hidden_size,),
        **_gated_mlp(config),
        "post_feedforward_layernorm.weight": (config.hidden_size,),
    }


def _gemma_layer(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    norms = names if config.has_post_norms else ()
    return {**_llama_layer(config), **{f"{name}.weight": (config.hidden_size,) for name in norms}}


def _attention(
    config: ModelConfig, norms: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    hidden, head_dim = config.hidden_size, config.head_dim
    q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for name, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
        shapes[f"self_attn.{name}_proj.weight"] = (size, hidden)
        if config.qkv_bias:
            shapes[f"self_attn.{name}_proj.bias"] = (size,)
    shapes |= {f"self_attn.{name}.weight": shape for name, shape in norms.items()}
    shapes["self_attn.o_proj.weight"] = (hidden, q_size)
    return shapes


def _gated_mlp(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }


# The weights of one layer, by the file in `engine/models/`.
_LAYERS = {"llama": _llama_layer, "olmo2": _olmo2_layer, "gemma": _gemma_layer}


def check_tensors(
    config: ModelConfig,
    tensors: Mapping[str, TensorData],
    source: str,
    is_transposed: Callable[[str], bool] = lambda name: False,
) -> None:
    """CheckpointError naming the first weight that is missing, misshapen or not understood.

    An unexpected weight is refused too: it belongs to a structure that would be left out silently.
    `is_transposed` says whose dimensions are the other way round in this file.
    """
    shapes = tensor_shapes(config)
    for name, own_shape in shapes.items():
        shape = own_shape[::-1] if is_transposed(name) else own_shape
        if name not in tensors:
            raise CheckpointError(f"{source}: the weight {name} is missing")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{source}: the weight {name} has the shape {list(tensors[name].shape)}; "
                f"the config asks for {list(shape)}"
            )
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(
                f"{source}: the weight {quote(name)} has no place in this kind of model"
            )
