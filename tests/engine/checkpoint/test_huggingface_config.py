"""config.json to ModelConfig: both spellings of the rotary keys, each refusal."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import HUGGINGFACE_NAMES, random_weights, write_huggingface

from engine.checkpoint import RopeScaling, open_checkpoint
from engine.errors import CheckpointError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3_SCALING = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("family", HUGGINGFACE_NAMES)
def test_each_family(tmp_path: Path, family: str) -> None:
    config = open_checkpoint(write_huggingface(tmp_path, family)).config
    assert (config.architecture, config.num_heads, config.num_kv_heads) == ("llama", 4, 2)
    assert (config.qkv_bias, config.qk_norm) == (family == "qwen2", family == "qwen3")
    assert (config.rope_theta, config.rope_scaling) == (10_000.0, None)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    ("keys", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_theta": 500_000, "rope_scaling": LLAMA3}, 5e5, LLAMA3_SCALING),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, 5e5, LLAMA3_SCALING),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}, 7e4, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1e4, RopeScaling("linear", 2.0)),
        ({"rope_scaling": None, "rope_theta": None}, 1e4, None),
        ({"rope_scaling": {}, "rope_parameters": {"rope_theta": 7e4}}, 7e4, None),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            1e4,
            RopeScaling(
                "yarn",
                4.0,
                original_max_position_embeddings=128,
                attention_factor=0.1 * math.log(4.0) + 1,
            ),
        ),
    ],
)
def test_rotary_parameters(tmp_path: Path, keys: Any, theta: float, scaling: Any) -> None:
    config = open_checkpoint(write_huggingface(tmp_path, **keys)).config
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


SWITCHED_ON = {"sliding_window": 100, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("family", "architecture", "keys", "windows"),
    [
        ("llama", "MistralForCausalLM", {"sliding_window": 100}, (100, 100)),
        ("llama", "MistralForCausalLM", {}, (4096, 4096)),
        ("llama", "LlamaForCausalLM", SWITCHED_ON, ()),
        ("qwen2", "Qwen2ForCausalLM", {"sliding_window": 100}, ()),
        ("qwen2", "Qwen2ForCausalLM", SWITCHED_ON, (None, None)),  # from layer 28 on
        ("qwen2", "Qwen2ForCausalLM", SWITCHED_ON | {"max_window_layers": 1}, (None, 100)),
        (
            "qwen3",
            "Qwen3ForCausalLM",
            SWITCHED_ON | {"layer_types": ["sliding_attention", "full_attention"]},
            (100, None),
        ),
        ("llama", "SmolLM3ForCausalLM", SWITCHED_ON | {"no_rope_layers": [0, 1]}, (100, None)),
    ],
)
def test_windows_of_layers(
    tmp_path: Path, family: str, architecture: str, keys: Any, windows: Any
) -> None:
    folder = write_huggingface(tmp_path, family, architectures=[architecture], **keys)
    config = open_checkpoint(folder).config
    assert config.windows == windows
    assert config.max_model_len == 128
    assert all(config.window(layer) in (None, 100) for layer in range(2))
    assert config.as_served(100).window(0) is None


def test_a_window_of_null_is_none(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, architectures=["MistralForCausalLM"])
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": None}))
    assert open_checkpoint(folder).config.windows == ()


@pytest.mark.parametrize(
    ("keys", "still_layers"),
    [
        ({}, ()),
        ({"no_rope_layer_interval": 2}, (1,)),
        ({"no_rope_layers": [0, 1, 0]}, (0,)),
    ],
)
def test_layers_that_do_not_turn(tmp_path: Path, keys: Any, still_layers: Any) -> None:
    folder = write_huggingface(tmp_path, architectures=["SmolLM3ForCausalLM"], **keys)
    assert open_checkpoint(folder).config.still_layers == frozenset(still_layers)


@pytest.mark.parametrize(
    ("flag", "has_head", "is_tied"),
    [(None, True, False), (None, False, True), (True, False, True), (True, True, True)],
)
def test_tied_head(tmp_path: Path, flag: bool | None, has_head: bool, is_tied: bool) -> None:
    weights = random_weights(tied=not has_head)
    folder = write_huggingface(tmp_path, weights=weights, tie_word_embeddings=flag)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.tie_word_embeddings == is_tied
    assert ("lm_head.weight" in checkpoint.tensor_names) == (not is_tied)


def test_head_that_the_config_promises_must_be_there(tmp_path: Path) -> None:
    folder = write_huggingface(
        tmp_path, weights=random_weights(tied=True), tie_word_embeddings=False
    )
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        open_checkpoint(folder)


SUPPORTED = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"architectures": ["MambaForCausalLM"]}, f"'MambaForCausalLM'.*supported are {SUPPORTED}"),
        ({"architectures": []}, f"supported are {SUPPORTED}"),
        ({"architectures": None}, f"supported are {SUPPORTED}"),
        ({"architectures": [["x"]]}, f"supported are {SUPPORTED}"),
        ({"quantization_config": {"quant_method": "gptq"}}, "supported in GGUF only"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"hidden_act": "gelu"}, "'gelu'; supported is silu"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"vocab_size": True}, "vocab_size must be an integer, not True"),
        ({"vocab_size": "8"}, "vocab_size must be an integer, not '8'"),
        ({"vocab_size": 9}, r"embed_tokens\.weight has the shape \[8, 64\]"),
        ({"hidden_size": -1}, "hidden_size must be in"),
        ({"hidden_size": 10**30}, "hidden_size must be in"),
        ({"num_attention_heads": 0}, "num_attention_heads must be in"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be in"),
        ({"rope_theta": 10**400}, "rope_theta must be in"),
        ({"rope_scaling": "x"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"type": "dynamic"}}, "'dynamic'; supported are"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "must be larger"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, "factor is missing"),
        ({"rope_scaling": {"type": "yarn"}}, "factor is missing"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 0.5}},
            "beta_fast must not be smaller",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "short_factor must be a list of 16 numbers",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 15 + [0.0]}},
            "short_factor: item 15 must be in",
        ),
        ({"rope_parameters": {"full_attention": {}}}, "full_attention is set"),
        ({"num_local_experts": 8}, "mixtures of experts"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["chunked_attention"] * 2}
            | SWITCHED_ON,
            "names 'chunked_attention'; supported are",
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention"]}
            | SWITCHED_ON,
            "layer_types must be a list of 2 names",
        ),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 2]}, "but 0 and 1"),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1]}, "list of 2 numbers"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 0}, "sliding_window must be"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, keys: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(write_huggingface(tmp_path, **keys))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "repeated"),
        (b"[" * 50_000, "nested too deeply"),
        (b" " * (2 << 20), "larger than"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    write_huggingface(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(tmp_path)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    code = f"import pathlib\npathlib.Path({str(witness)!r}).touch()\n"
    folder = write_huggingface(
        tmp_path / "model",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        _attn_implementation_internal="evil/code",
        trust_remote_code=True,
    )
    (folder / "evil.py").write_text(code)
    open_checkpoint(folder)
    assert not witness.exists()
