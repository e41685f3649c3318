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
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        attention = f"{prefix}.self_attn"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        for name, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
            shapes[f"{attention}.{name}_proj.weight"] = (size, hidden)
            if config.qkv_bias:
                shapes[f"{attention}.{name}_proj.bias"] = (size,)
        if config.qk_norm:
            shapes[f"{attention}.q_norm.weight"] = (head_dim,)
            shapes[f"{attention}.k_norm.weight"] = (head_dim,)
        shapes[f"{attention}.o_proj.weight"] = (hidden, q_size)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, hidden)
    return shapes


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
