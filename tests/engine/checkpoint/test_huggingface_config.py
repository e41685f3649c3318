"""config.json to ModelConfig: both spellings of the rotary keys, each refusal."""

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
    ],
)
def test_rotary_parameters(tmp_path: Path, keys: Any, theta: float, scaling: Any) -> None:
    config = open_checkpoint(write_huggingface(tmp_path, **keys)).config
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("architecture", "keys", "max_model_len"),
    [
        ("MistralForCausalLM", {"sliding_window": 100}, 100),
        ("MistralForCausalLM", {"sliding_window": 4096}, 128),
        ("LlamaForCausalLM", {"sliding_window": 100}, 128),
        ("LlamaForCausalLM", {"sliding_window": 100, "use_sliding_window": True}, 100),
        ("LlamaForCausalLM", {"sliding_window": 100, "use_sliding_window": False}, 128),
    ],
)
def test_context_is_capped_at_a_sliding_window(
    tmp_path: Path, architecture: str, keys: Any, max_model_len: int
) -> None:
    folder = write_huggingface(tmp_path, architectures=[architecture], **keys)
    assert open_checkpoint(folder).config.max_model_len == max_model_len


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
        ({"architectures": ["GemmaForCausalLM"]}, f"'GemmaForCausalLM'.*supported are {SUPPORTED}"),
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
