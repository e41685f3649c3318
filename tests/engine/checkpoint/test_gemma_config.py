"""Configs of the released Gemma models, in both formats, and what is refused in them."""

from __future__ import annotations

import numpy as np
import pytest

from engine.checkpoint.architecture import ARCHITECTURES, Architecture
from engine.checkpoint.fields import Fields
from engine.checkpoint.gemma import gguf_gemma, huggingface_gemma
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.errors import CheckpointError

# What config.json of gemma-3-1b says, as released; and that of gemma-2-2b.
GEMMA3 = {
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10_000,
    "rope_scaling": None,
    "rope_theta": 1_000_000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262_144,
}
GEMMA2 = {
    **{key: value for key, value in GEMMA3.items() if "rope" not in key and "cap" not in key},
    "num_key_value_heads": 2,
    "sliding_window": 4096,
    "sliding_window_pattern": None,
}
GGUF = {
    "embedding_length": 1152,
    "block_count": 26,
    "feed_forward_length": 6912,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "context_length": 32768,
    "rope.freq_base": 1_000_000.0,
}
FIVE_OF_SIX = tuple(None if layer % 6 == 5 else 512 for layer in range(26))


def architecture(name: str) -> Architecture:
    return next(entry for entry in ARCHITECTURES if entry.gguf_name == name)


def from_folder(name: str, **config: object) -> ModelConfig:
    return huggingface_gemma(Fields("config.json", config), architecture(name))


def from_gguf(name: str, **changes: object) -> ModelConfig:
    values = {**GGUF, **{key.replace("__", "."): value for key, value in changes.items()}}
    prefixed = {f"{name}.{key}": value for key, value in values.items()}
    return gguf_gemma(Fields("m.gguf", prefixed), architecture(name), 262_144, {})


def test_gemma_3_is_one_model_in_both_formats() -> None:
    config = from_folder("gemma3", **GEMMA3)
    assert config.windows == FIVE_OF_SIX
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)
    assert config.qk_norm and config.has_post_norms and config.tie_word_embeddings
    assert (config.attention_scale, config.attention_soft_cap) == (256**-0.5, None)
    gguf = from_gguf("gemma3", attention__sliding_window=512)
    assert gguf.attention_scale is None  # heads of 256
    assert gguf.windows == FIVE_OF_SIX
    assert (gguf.local_rope_theta, gguf.logit_soft_cap) == (1e4, None)


def test_rope_of_gemma_3_as_transformers_5_writes_it() -> None:
    old = from_folder("gemma3", **{**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8}})
    keys = {key: value for key, value in GEMMA3.items() if "rope" not in key}
    keys["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000},
    }
    assert from_folder("gemma3", **keys) == old
    assert old.rope_scaling == RopeScaling("linear", 8.0)


def test_gemma_2_has_caps_and_every_second_window_where_nothing_is_said() -> None:
    for config in (from_folder("gemma2", **GEMMA2), from_gguf("gemma2")):
        assert config.windows == (4096, None) * 13
        assert (config.attention_soft_cap, config.logit_soft_cap) == (50.0, 30.0)
        assert config.local_rope_theta is None and not config.qk_norm
    keys = {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    config = from_folder("gemma2", **keys, **{"rope_theta": 10_000})
    assert (config.attention_soft_cap, config.logit_soft_cap) == (None, None)
    assert from_gguf("gemma2", attn_logit_softcapping=0.0).attention_soft_cap is None


def test_the_largest_ones_scale_scores_in_their_own_way() -> None:
    for name, num_layers in (("gemma2", 46), ("gemma3", 62)):
        config = from_gguf(name, block_count=num_layers)
        assert config.attention_scale == (1152 / 4) ** -0.5


def test_gemma_has_neither_windows_nor_norms_after_nor_caps() -> None:
    keys = {**GEMMA2, "hidden_activation": None, "hidden_act": "gelu"}
    for config in (from_folder("gemma", **keys), from_gguf("gemma")):
        assert config.windows == () and not config.has_post_norms
        assert (config.attention_scale, config.logit_soft_cap) == (None, None)


def test_windows_of_gguf_by_period_and_by_layer() -> None:
    window = {"attention__sliding_window": 512}
    assert from_gguf("gemma3").windows == ()
    by_period = from_gguf("gemma3", **window, attention__sliding_window_pattern=2)
    assert by_period.windows == (512, None) * 13
    slides = np.array([True] * 25 + [False])
    by_layer = from_gguf("gemma3", **window, attention__sliding_window_pattern=slides)
    assert by_layer.windows == (512,) * 25 + (None,)
    with pytest.raises(CheckpointError, match="sliding_window_pattern must have 26 entries"):
        from_gguf("gemma3", **window, attention__sliding_window_pattern=slides[:5])


def test_layers_without_a_window() -> None:
    assert from_folder("gemma3", **{**GEMMA3, "sliding_window": None}).windows == ()
    types = ["full_attention"] * 25 + ["sliding_attention"]
    config = from_folder("gemma3", **GEMMA3, layer_types=types)
    assert config.windows == (None,) * 25 + (512,)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"attention_bias": True}, "attention_bias is true"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'; supported is gelu_pytorch"),
        ({"layer_types": ["full_attention"]}, "layer_types must be a list of 26 names"),
        ({"layer_types": ["chunked"] * 26}, "layer_types names 'chunked'; supported are"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be in"),
        ({"final_logit_softcapping": 0}, "final_logit_softcapping must be in"),
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "cannot share 2 key-value heads"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}},
            "sliding_attention: rope_type is not default",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint) as caught:
        from_folder("gemma3", **{**GEMMA3, **changes})
    assert "\n" not in str(caught.value)


def test_value_heads_of_another_size_are_refused() -> None:
    with pytest.raises(CheckpointError, match="value_length must equal the head size 256"):
        from_gguf("gemma3", attention__value_length=128)
