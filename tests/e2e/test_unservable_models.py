"""What cannot be served, as `python -m server` is asked to: one line, exit code 3, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import random_weights, raw_gguf, raw_tensor, write_gguf, write_huggingface
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

ROOT = Path(__file__).parents[2]
EMBEDDING = "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def serve(model: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", str(model), "--port", "0", "--offline", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"OCTAVO_CACHE": str(home / "cache")},
    )


def refusal(run: subprocess.CompletedProcess[str]) -> str:
    """The one line; the run is checked for everything else."""
    assert run.returncode == 3, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    [line] = [line for line in run.stderr.splitlines() if line.startswith("octavo: ")]
    assert "Ready." not in run.stderr
    return line


def unknown_architecture(folder: Path) -> Path:
    return write_huggingface(folder, architectures=["MambaForCausalLM"])


def code_of_its_own(folder: Path) -> Path:
    """The code would leave a file, if it were run."""
    (folder / "modeling_new.py").write_text(f"open({str(folder / 'was run')!r}, 'w').close()")
    return write_huggingface(
        folder,
        architectures=["NewForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling_new.NewForCausalLM"},
    )


def unknown_gguf_architecture(folder: Path) -> Path:
    return write_gguf(folder / "m.gguf", "bert", weights={})


def missing_shard(folder: Path) -> Path:
    write_huggingface(folder)
    weights = random_weights()
    (folder / "model.safetensors").unlink()
    shards = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
    where = {name: shards[i % 2] for i, name in enumerate(weights)}
    save_file({n: w for n, w in weights.items() if where[n] == shards[0]}, folder / shards[0])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def wrong_shape(folder: Path) -> Path:
    weights = random_weights()
    return write_huggingface(folder, weights=weights | {UP: np.zeros((7, 64), np.float32)})


def missing_tensor(folder: Path) -> Path:
    weights = random_weights()
    del weights[UP]
    return write_huggingface(folder, weights=weights)


def extra_tensor(folder: Path) -> Path:
    weights = random_weights()
    return write_huggingface(folder, weights=weights | {"model.vision.weight": weights[UP]})


def truncated_gguf(folder: Path) -> Path:
    path = write_gguf(folder / "m.gguf")
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def truncated_safetensors(folder: Path) -> Path:
    write_huggingface(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def pickle_only(folder: Path) -> Path:
    write_huggingface(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def unsupported_type(folder: Path) -> Path:
    path = folder / "m.gguf"
    path.write_bytes(raw_gguf(tensors=[raw_tensor(b"t", [256], type_id=40)], data=bytes(256)))
    return path


def unsupported_tokenizer(folder: Path) -> Path:
    return write_gguf(folder / "m.gguf", tokenizer__ggml__model="bert")


def no_tokenizer(folder: Path) -> Path:
    return write_huggingface(folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unknown_architecture, "config.json: the architecture 'MambaForCausalLM' is not supported"),
        (code_of_its_own, "'NewForCausalLM' comes as code (auto_map), which is never run"),
        (unknown_gguf_architecture, "m.gguf: the architecture 'bert' is not supported"),
        (missing_shard, "model-00002-of-00002.safetensors: no such file"),
        (wrong_shape, f"the weight {UP} has the shape [7, 64]; the config asks for [96, 64]"),
        (missing_tensor, f"the weight {UP} is missing"),
        (extra_tensor, "the weight 'model.vision.weight' has no place in this kind of model"),
        (truncated_gguf, "reaches past the end of the file"),
        (truncated_safetensors, "reaches past the end of the file"),
        (pickle_only, "pickled weights can run code"),
        (unsupported_type, "'t' has the type NVFP4, which is not supported"),
        (unsupported_tokenizer, "the tokenizer 'bert' is not supported in GGUF"),
        (no_tokenizer, "needs a tokenizer.json"),
    ],
)
def test_a_model_that_cannot_be_served(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert words in refusal(serve(make(folder), tmp_path))
    assert not (folder / "was run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-model-len", "129"], "129 is more than the model's 128 positions"),
        pytest.param(
            ["--max-model-len", "128", "--max-num-seqs", "2", "--kv-cache-memory", "48KiB"],
            "128 does not fit the KV cache, which holds 48 tokens: 48 fit",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--max-num-seqs", "9", "--kv-cache-memory", "48KiB"],
            "holds 3 pages of 16 tokens, fewer than the 9 running requests",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_context_longer_than_memory_allows(
    tmp_path: Path, options: list[str], words: str
) -> None:
    """Said before the weights are read; what fits is named."""
    model = write_gguf(tmp_path / "m.gguf")
    run = serve(model, tmp_path, "--device", "cpu", "--dtype", "float32", *options)
    assert words in refusal(run)
    assert "loading weights" not in run.stderr


@pytest.mark.slow
def test_a_model_larger_than_memory(tmp_path: Path) -> None:
    """Said before the first weight is made or read, with what it would take."""
    folder = tmp_path / "model"
    folder.mkdir()
    model = write_huggingface(
        folder, hidden_size=16384, intermediate_size=65536, num_attention_heads=128, head_dim=128,
        num_key_value_heads=128, num_hidden_layers=200,
    )  # fmt: skip
    (model / "model.safetensors").unlink()
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(), ByteLevelDecoder()
    (model / "tokenizer.json").write_text(tokenizer.to_str())
    run = serve(model, tmp_path, "--load-format", "dummy", "--device", "cpu", "--dtype", "bfloat16",
                "--kv-cache-memory", "8GiB", "--max-num-seqs", "1")  # fmt: skip
    line = refusal(run)
    assert "the weights take about 1,7" in line and "of main memory" in line, line
    assert "making random weights" not in run.stderr
