"""From a Hugging Face `config.json` to a `ModelConfig`.

An allow-list of keys is read; anything that names code (`auto_map`, ...) is never looked at.
"""

from __future__ import annotations

from engine.checkpoint import architecture as limits
from engine.checkpoint.architecture import ARCHITECTURES, Architecture, check_config
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.gpt2 import huggingface_gpt2
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.errors import CheckpointError

# What would change the numbers and is not implemented; each must be absent or false.
_UNSUPPORTED_FLAGS = ("attention_bias", "mlp_bias")


def huggingface_config(config: Fields) -> ModelConfig:
    """The model's shape; CheckpointError when any of it is missing, absurd or not supported."""
    name, architecture = _architecture(config)
    if "quantization_config" in config:
        raise config.error(
            "quantization_config", "is set; quantized weights are supported in GGUF only"
        )
    if architecture.model == "gpt2":
        return huggingface_gpt2(config)
    for key in _UNSUPPORTED_FLAGS:
        if config.flag(key, False):
            raise config.error(key, "is true, which is not supported")
    activation = config.text("hidden_act", "silu")
    if activation != "silu":
        raise config.error("hidden_act", f"is {quote(activation)}; supported is silu")
    hidden_size = config.integer("hidden_size", high=limits.MAX_WIDTH)
    num_heads = config.integer("num_attention_heads", high=limits.MAX_HEADS)
    rope = _rope(config)
    for fields in (config, rope):
        if fields.number("partial_rotary_factor", 1.0) != 1.0:
            raise fields.error("partial_rotary_factor", "must be 1")
    return check_config(
        ModelConfig(
            architecture="llama",
            vocab_size=config.integer("vocab_size", high=limits.MAX_VOCAB_SIZE),
            hidden_size=hidden_size,
            intermediate_size=config.integer("intermediate_size", high=limits.MAX_WIDTH),
            num_layers=config.integer("num_hidden_layers", high=limits.MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=config.integer("num_key_value_heads", num_heads, high=limits.MAX_HEADS),
            head_dim=config.integer("head_dim", hidden_size // num_heads, high=limits.MAX_HEAD_DIM),
            max_model_len=_max_model_len(config, name),
            rms_norm_eps=config.number("rms_norm_eps", 1e-6, high=1.0),
            rope_theta=rope.number("rope_theta", _old_theta(config), low=1.0),
            rope_scaling=_rope_scaling(rope),
            qkv_bias=architecture.qkv_bias,
            qk_norm=architecture.qk_norm,
            tie_word_embeddings=config.flag("tie_word_embeddings", False),
        ),
        config.source,
    )


def _architecture(config: Fields) -> tuple[str, Architecture]:
    names = config.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    for architecture in ARCHITECTURES:
        if isinstance(name, str) and name in architecture.huggingface_names:
            return name, architecture
    supported = ", ".join(name for entry in ARCHITECTURES for name in entry.huggingface_names)
    raise CheckpointError(
        f"{config.source}: the architecture {quote(name)} is not supported; "
        f"supported are {supported}"
    )


def _max_model_len(config: Fields, architecture_name: str) -> int:
    length = config.integer("max_position_embeddings", high=limits.MAX_CONTEXT)
    # Mistral's window is on when it is set; the Qwen configs have a switch beside it.
    is_mistral = architecture_name == "MistralForCausalLM"
    if "sliding_window" not in config or not config.flag("use_sliding_window", is_mistral):
        return length
    # Up to the window's length, attention with a sliding window is attention without one.
    return min(length, config.integer("sliding_window"))


def _rope(config: Fields) -> Fields:
    """The rotary parameters: `rope_parameters` since transformers 5, else `rope_scaling`."""
    section = config.section("rope_parameters") or config.section("rope_scaling")
    return section or Fields(config.source, {})


def _old_theta(config: Fields) -> float:
    return config.number("rope_theta", 10_000.0, low=1.0)


def _rope_scaling(rope: Fields) -> RopeScaling | None:
    key = "rope_type" if "rope_type" in rope else "type"
    kind = rope.text(key, "default")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", rope.number("factor", low=1.0))
    if kind != "llama3":
        raise rope.error(key, f"is {quote(kind)}; supported are default, linear and llama3")
    scaling = RopeScaling(
        "llama3",
        rope.number("factor", low=1.0),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
        rope.integer("original_max_position_embeddings", high=limits.MAX_CONTEXT),
    )
    if not scaling.low_freq_factor < scaling.high_freq_factor:
        raise rope.error("high_freq_factor", "must be larger than low_freq_factor")
    return scaling
