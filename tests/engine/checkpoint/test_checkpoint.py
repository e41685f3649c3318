"""`open_checkpoint`: the same model out of either format, and clear refusals."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    HUGGINGFACE_NAMES,
    random_weights,
    write_gguf,
    write_huggingface,
)
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as oracle
from gguf.quants import quantize

from engine.checkpoint import dequantize, open_checkpoint, tensor_shapes
from engine.errors import CheckpointError


@pytest.mark.parametrize("family", HUGGINGFACE_NAMES)
def test_both_formats_give_the_same_weights(tmp_path: Path, family: str) -> None:
    weights = random_weights(family)
    from_gguf = open_checkpoint(write_gguf(tmp_path / "m.gguf", family))
    from_folder = open_checkpoint(write_huggingface(tmp_path / "m", family))
    assert set(from_gguf.tensor_names) == set(from_folder.tensor_names) == set(weights)
    assert from_gguf.tensor_names == list(tensor_shapes(from_gguf.config))
    assert from_gguf.num_parameters == sum(weight.size for weight in weights.values())
    for name, weight in weights.items():
        np.testing.assert_array_equal(dequantize(from_gguf.tensor(name)), weight)
        np.testing.assert_array_equal(dequantize(from_folder.tensor(name)), weight)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_quantized_rows_keep_their_order_and_blocks(tmp_path: Path, dtype: str) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", dtype=dtype))
    kind = GGMLQuantizationType[dtype]
    for name, weight in random_weights().items():
        tensor = checkpoint.tensor(name)
        if weight.ndim == 1:
            assert tensor.dtype == "F32"
        else:
            assert tensor.dtype == dtype
            weight = oracle(quantize(weight, kind), kind)
        np.testing.assert_array_equal(dequantize(tensor), weight)


@pytest.mark.parametrize(
    ("dtype", "is_quantized"), [("F32", False), ("BF16", False), ("Q8_0", True), ("Q4_1", True)]
)
def test_whether_weights_are_quantized(tmp_path: Path, dtype: str, is_quantized: bool) -> None:
    """Norms never are, and an embedding that is makes not most of the weights."""
    assert (
        open_checkpoint(write_gguf(tmp_path / "m.gguf", dtype=dtype)).is_quantized == is_quantized
    )
    assert not open_checkpoint(write_huggingface(tmp_path / "hf")).is_quantized


def test_builtin_model(builtin_model: Path) -> None:
    start = time.perf_counter()
    checkpoint = open_checkpoint(builtin_model)
    # Usually 0.1 s; the bound only catches a vocabulary that is read in a silly way.
    assert time.perf_counter() - start < 2.0
    config = checkpoint.config
    assert checkpoint.num_parameters == 134_515_008
    assert (config.hidden_size, config.num_layers, config.intermediate_size) == (576, 30, 1536)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.max_model_len, config.rope_theta, config.rope_scaling) == (8192, 1e5, None)
    assert config.tie_word_embeddings
    tokenizer = checkpoint.tokenizer
    assert tokenizer.tokens is not None
    assert tokenizer.tokens[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert len(tokenizer.tokens) == config.vocab_size == 49_152
    assert (tokenizer.pre, tokenizer.bos_token_id, tokenizer.eos_token_ids) == ("smollm", 1, (2,))
    assert not tokenizer.add_bos
    assert checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").dtype == "Q4_1"
    assert np.isfinite(dequantize(checkpoint.tensor("model.embed_tokens.weight"))).all()


def test_name_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "Tiny-1.5.Q4_1.gguf")
    assert (open_checkpoint(path).name, open_checkpoint(path).path) == ("Tiny-1.5.Q4_1", path)
    folder = write_huggingface(tmp_path / "Tiny-1.5")
    monkeypatch.chdir(folder)
    assert open_checkpoint(folder).name == open_checkpoint(Path()).name == "Tiny-1.5"


def test_folder_with_one_gguf_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    assert open_checkpoint(tmp_path).path == path
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match=r"2 \.gguf files; name one"):
        open_checkpoint(tmp_path)


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    weights = random_weights()
    norm = weights.pop("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"the weight model\.norm\.weight is missing"):
        open_checkpoint(write_huggingface(tmp_path / "a", weights=weights))
    weights["model.norm.weight"] = norm[:-1].copy()
    with pytest.raises(CheckpointError, match=r"norm\.weight has the shape \[63\].*\[64\]"):
        open_checkpoint(write_huggingface(tmp_path / "b", weights=weights))
    weights["model.norm.weight"] = norm
    weights["model.layers.0.self_attn.q_proj.bias"] = norm
    with pytest.raises(CheckpointError, match=r"q_proj\.bias' has no place"):
        open_checkpoint(write_huggingface(tmp_path / "c", weights=weights))
    with pytest.raises(CheckpointError, match=r"q_proj\.bias' has no place"):
        open_checkpoint(write_gguf(tmp_path / "d.gguf", weights=weights))


def test_rotary_tables_of_old_exports_are_left_out(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights = random_weights() | {name: np.ones(16, np.float32)}
    checkpoint = open_checkpoint(write_huggingface(tmp_path, weights=weights))
    assert name not in checkpoint.tensor_names


def test_unknown_weight_is_an_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf"))
    with pytest.raises(CheckpointError, match=r"no weight model\.nothing"):
        checkpoint.tensor("model.nothing")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_refused(tmp_path: Path, suffix: str) -> None:
    folder = write_huggingface(tmp_path / "m")
    pickle_path = (folder / "model.safetensors").rename(folder / f"pytorch_model{suffix}")
    for path in (folder, pickle_path):
        with pytest.raises(CheckpointError, match="weights must be safetensors or GGUF"):
            open_checkpoint(path)


def test_config_alone_opens_only_when_weights_are_not_required(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        open_checkpoint(folder)
    checkpoint = open_checkpoint(folder, require_weights=False)
    assert checkpoint.tensor_names == []
    assert checkpoint.num_parameters == sum(weight.size for weight in random_weights().values())


def test_paths_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"needs a config\.json or one \.gguf file"):
        open_checkpoint(tmp_path)


def test_reading_a_checkpoint_needs_no_torch() -> None:
    code = (
        "import sys, engine.checkpoint\n"
        "print(*sorted({'torch', 'transformers', 'gguf'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (result.stdout, result.stderr) == ("\n", "")
