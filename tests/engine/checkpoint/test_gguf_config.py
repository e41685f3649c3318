"""GGUF metadata to ModelConfig: each family, each refusal."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import HEAD_DIM, random_weights, write_gguf

from engine.checkpoint import ModelConfig, RopeScaling, open_checkpoint
from engine.checkpoint.gguf_config import huggingface_name
from engine.errors import CheckpointError

TINY = {
    "architecture": "llama",
    "vocab_size": 8,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "max_model_len": 128,
    "norm_eps": pytest.approx(1e-5),
    "rope_theta": 10_000.0,
}


def as_dict(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}


@pytest.mark.parametrize(
    ("family", "qkv_bias", "qk_norm"),
    [("llama", False, False), ("qwen2", True, False), ("qwen3", False, True)],
)
def test_each_family(tmp_path: Path, family: str, qkv_bias: bool, qk_norm: bool) -> None:
    config = open_checkpoint(write_gguf(tmp_path / "m.gguf", family)).config
    assert as_dict(config) == TINY | {
        "rope_scaling": None,
        "rotary_dim": None,
        "still_layers": frozenset(),
        "windows": (),
        "qkv_bias": qkv_bias,
        "qk_norm": qk_norm,
        "tie_word_embeddings": False,
        "local_rope_theta": None,
        "num_positions": 0,
        "attention_scale": None,
        "attention_soft_cap": None,
        "logit_soft_cap": None,
        "has_post_norms": False,
    }


def test_head_is_tied_when_there_is_none(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights=random_weights(tied=True))
    assert open_checkpoint(path).config.tie_word_embeddings


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"model__rope__freq_base": 5e5}, {"rope_theta": 5e5}),
        ({"model__rope__scaling__type": "none"}, {"rope_scaling": None}),
        (
            {"model__rope__scaling__type": "linear", "model__rope__scaling__factor": 4.0},
            {"rope_scaling": RopeScaling("linear", 4.0)},
        ),
        (
            {
                "model__rope__scaling__type": "yarn",
                "model__rope__scaling__factor": 4.0,
                "model__rope__scaling__original_context_length": 32,
            },
            {
                "rope_scaling": RopeScaling(
                    "yarn",
                    4.0,
                    original_max_position_embeddings=32,
                    attention_factor=pytest.approx(0.1 * math.log(4) + 1),
                )
            },
        ),
        (
            {"model__attention__sliding_window": 100},
            {"windows": (100, 100), "max_model_len": 128},
        ),
        ({"model__attention__sliding_window": 0}, {"windows": ()}),
        ({"model__vocab_size": 8}, {"vocab_size": 8}),
    ],
)
def test_optional_keys(tmp_path: Path, metadata: Any, expected: Any) -> None:
    config = as_dict(open_checkpoint(write_gguf(tmp_path / "m.gguf", **metadata)).config)
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"model__block_count": None}, r"llama\.block_count is missing"),
        ({"model__block_count": 0}, r"llama\.block_count must be in 1\.\.1024, not 0"),
        ({"model__block_count": 3}, r"model\.layers\.2\.input_layernorm\.weight is missing"),
        ({"model__block_count": 1}, r"model\.layers\.1\..*has no place"),
        ({"model__embedding_length": "x"}, "must be an integer, not 'x'"),
        ({"model__embedding_length": 96}, r"embed_tokens\.weight has the shape \[8, 64\]"),
        ({"model__feed_forward_length": 64}, r"gate_proj\.weight has the shape"),
        ({"model__attention__head_count": 1 << 30}, "head_count must be in"),
        ({"model__attention__head_count_kv": 3}, "cannot share 3 key-value heads"),
        ({"model__attention__head_count_kv": [2, 2]}, "must be an integer, not a ndarray"),
        ({"model__attention__key_length": 16}, "value_length must equal the head size 16"),
        ({"model__rope__dimension_count": 16}, "must equal the head size 32"),
        ({"model__attention__layer_norm_rms_epsilon": float("nan")}, "not nan"),
        ({"model__rope__freq_base": float("inf")}, "not inf"),
        ({"model__rope__scaling__type": "x"}, "'x'; supported are none, linear and yarn"),
        (
            {"model__rope__scaling__type": "yarn", "model__rope__scaling__factor": 4.0},
            "original_context_length is missing",
        ),
        (
            {
                "model__attention__sliding_window": 8,
                "model__attention__sliding_window_pattern": [True, False],
            },
            "sliding_window is set, which is not supported",
        ),
        ({"model__rope__scaling__type": "linear"}, "factor is missing"),
        ({"model__expert_count": 8}, "mixtures of experts"),
        ({"split__count": 3}, "one of 3 parts of a model"),
        ({"model__vocab_size": 9}, r"the config asks for \[9, 64\]"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, metadata: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", **metadata))


def test_odd_head_size_is_refused(tmp_path: Path) -> None:
    sizes = {"model__attention__key_length": 31, "model__attention__value_length": 31}
    with pytest.raises(CheckpointError, match="even head size, not 31"):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", **sizes))


def test_unsupported_architecture_lists_the_supported(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "mamba")
    with pytest.raises(CheckpointError, match=r"'mamba'.*supported are llama, qwen2, qwen3"):
        open_checkpoint(path)


def llama3_divisors(
    theta: float, factor: float, low: float = 1.0, high: float = 4.0, trained: int = 8192
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The rule as the Llama 3.1 release states it, one frequency at a time."""
    divisors = []
    for i in range(HEAD_DIM // 2):
        wavelength = 2 * np.pi * theta ** (2 * i / HEAD_DIM)
        if wavelength < trained / high:
            divisors.append(1.0)
        elif wavelength > trained / low:
            divisors.append(factor)
        else:
            smooth = (trained / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_found_again_from_its_divisors(tmp_path: Path, factor: float) -> None:
    divisors = llama3_divisors(5e5, factor)
    path = write_gguf(
        tmp_path / "m.gguf",
        extra_tensors={"rope_freqs.weight": divisors},
        model__rope__freq_base=5e5,
    )
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    assert "rope_freqs.weight" not in checkpoint.tensor_names


@pytest.mark.parametrize(
    "divisors",
    [
        llama3_divisors(1e4, 8.0)[:-1],
        llama3_divisors(1e4, 8.0, trained=4096),
        llama3_divisors(1e4, 8.0)[::-1].copy(),
        np.full(HEAD_DIM // 2, np.nan, np.float32),
        np.zeros(HEAD_DIM // 2, np.float32),
    ],
)
def test_other_divisors_are_refused(tmp_path: Path, divisors: Any) -> None:
    path = write_gguf(tmp_path / "m.gguf", extra_tensors={"rope_freqs.weight": divisors})
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight (is not a|must|holds)"):
        open_checkpoint(path)


def test_names() -> None:
    assert huggingface_name("blk.12.ffn_down.weight") == "model.layers.12.mlp.down_proj.weight"
    assert huggingface_name("blk.0.attn_q.bias") == "model.layers.0.self_attn.q_proj.bias"
    assert huggingface_name("output.weight") == "lm_head.weight"
    for unknown in ("blk.x.attn_q.weight", "blk.0.attn_z.weight", "blk.0.attn_q.weight.x", ""):
        assert huggingface_name(unknown) == unknown
