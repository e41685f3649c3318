"""From a Hugging Face `config.json` to a `ModelConfig`.

An allow-list of keys is read. Code that a folder names (`auto_map`) is never run: a family that is
known here needs none of it.
"""

from __future__ import annotations

from engine.checkpoint import architecture as limits
from engine.checkpoint.architecture import ARCHITECTURES, Architecture, check_config
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.gemma import huggingface_gemma
from engine.checkpoint.gpt2 import huggingface_gpt2
from engine.checkpoint.huggingface_rope import huggingface_rope
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.errors import CheckpointError

# What would change the numbers and is not implemented; each must be absent or false.
_UNSUPPORTED_FLAGS = ("attention_bias", "mlp_bias")
# Where a family's own class has none, their number says that this is another structure.
_EXPERTS = ("num_experts", "num_local_experts")


def huggingface_config(config: Fields) -> ModelConfig:
    """The model's shape; CheckpointError when any of it is missing, absurd or not supported."""
    architecture = _architecture(config)
    if "quantization_config" in config:
        raise config.error(
            "quantization_config", "is set; quantized weights are supported in GGUF only"
        )
    if architecture.model == "gpt2":
        return huggingface_gpt2(config)
    if architecture.model == "gemma":
        return huggingface_gemma(config, architecture)
    for key in _UNSUPPORTED_FLAGS:
        if config.flag(key, False):
            raise config.error(key, "is true, which is not supported")
    for key in _EXPERTS:
        if config.integer(key, 0, low=0):
            raise config.error(key, "is set; mixtures of experts are not supported")
    activation = config.text("hidden_act", "silu")
    if activation != "silu":
        raise config.error("hidden_act", f"is {quote(activation)}; supported is silu")
    hidden_size = config.integer("hidden_size", high=limits.MAX_WIDTH)
    num_heads = config.integer("num_attention_heads", high=limits.MAX_HEADS)
    num_layers = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    head_dim = config.integer("head_dim", hidden_size // num_heads, high=limits.MAX_HEAD_DIM)
    rope_theta, rotary_dim, scaling = huggingface_rope(config, architecture, head_dim)
    return check_config(
        ModelConfig(
            architecture=architecture.model,
            vocab_size=config.integer("vocab_size", high=limits.MAX_VOCAB_SIZE),
            hidden_size=hidden_size,
            intermediate_size=config.integer("intermediate_size", high=limits.MAX_WIDTH),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=config.integer("num_key_value_heads", num_heads, high=limits.MAX_HEADS),
            head_dim=head_dim,
            max_model_len=_max_model_len(config, scaling),
            norm_eps=config.number("rms_norm_eps", 1e-6, high=1.0),
            rope_theta=rope_theta,
            rope_scaling=scaling,
            rotary_dim=rotary_dim,
            still_layers=_still_layers(config, architecture, num_layers),
            windows=_windows(config, architecture, num_layers),
            qkv_bias=architecture.qkv_bias,
            qk_norm=architecture.qk_norm,
            tie_word_embeddings=config.flag("tie_word_embeddings", False),
        ),
        config.source,
    )


def _architecture(config: Fields) -> Architecture:
    names = config.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    for architecture in ARCHITECTURES:
        if isinstance(name, str) and name in architecture.huggingface_names:
            return architecture
    supported = ", ".join(name for entry in ARCHITECTURES for name in entry.huggingface_names)
    problem = "is not supported"
    if "auto_map" in config:
        problem = "comes as code (auto_map), which is never run"
    raise CheckpointError(
        f"{config.source}: the architecture {quote(name)} {problem}; supported are {supported}"
    )


def _max_model_len(config: Fields, scaling: RopeScaling | None) -> int:
    length = config.integer("max_position_embeddings", high=limits.MAX_CONTEXT)
    if scaling is None or scaling.kind != "yarn":
        return length
    # YaRN is often added to a config that keeps its trained length.
    stretched = int(scaling.original_max_position_embeddings * scaling.factor)
    return min(max(length, stretched), limits.MAX_CONTEXT)


def _windows(config: Fields, architecture: Architecture, num_layers: int) -> tuple[int | None, ...]:
    if architecture.windows == "never":
        return ()
    is_set = "sliding_window" in config
    if not is_set and ("sliding_window" in config.values or architecture.default_window is None):
        return ()  # null, which says that there is none
    if architecture.windows == "always":
        return (_window(config, architecture),) * num_layers
    if not config.flag("use_sliding_window", False):
        return ()
    window = _window(config, architecture)
    return tuple(
        window if slides else None for slides in _sliding(config, architecture, num_layers)
    )


def _window(config: Fields, architecture: Architecture) -> int:
    return config.integer("sliding_window", architecture.default_window, high=limits.MAX_CONTEXT)


def _sliding(config: Fields, architecture: Architecture, num_layers: int) -> list[bool]:
    """Which of the layers have the window that the config switches on."""
    types = config.values.get("layer_types")
    if types is None:
        if architecture.still_every is not None:
            still = _still_layers(config, architecture, num_layers)
            return [layer in still for layer in range(num_layers)]
        first = config.integer("max_window_layers", 28, low=0)
        return [layer >= first for layer in range(num_layers)]
    if not isinstance(types, list) or len(types) < num_layers:
        raise config.error("layer_types", f"must be a list of {num_layers} names")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise config.error(
                "layer_types", f"names {quote(name)}; supported are full and sliding_attention"
            )
    return [name == "sliding_attention" for name in types[:num_layers]]


def _still_layers(config: Fields, architecture: Architecture, num_layers: int) -> frozenset[int]:
    """The layers without rotary embedding."""
    if architecture.still_every is None:
        return frozenset()
    turning = config.values.get("no_rope_layers")  # 1 where there is one
    if turning is None:
        every = config.integer("no_rope_layer_interval", architecture.still_every)
        return frozenset(range(every - 1, num_layers, every))
    if not isinstance(turning, list) or len(turning) < num_layers:
        raise config.error("no_rope_layers", f"must be a list of {num_layers} numbers, 0 or 1")
    if any(item not in (0, 1) for item in turning):
        raise config.error("no_rope_layers", "must hold nothing but 0 and 1")
    return frozenset(layer for layer in range(num_layers) if not turning[layer])
