"""GPT-2 against transformers: folders with old and new names, GGUF files of older converters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from agreement import (
    assert_close,
    check_greedy_tokens,
    check_mixed_steps,
    check_neighbours_change_no_bit,
    check_whole_prompt,
    expected_logits,
    random_ids,
)
from gguf_models import write_gguf_model
from safetensors.torch import load_file, save_file
from tiny_models import BareEngine, Chunk, save_random_model

from engine import EngineConfig, EngineStartError
from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError
from engine.kernels import select
from engine.runner import ModelRunner


def tiny_gpt2(folder: Path, **changes: object) -> transformers.PreTrainedModel:
    sizes = {"vocab_size": 199, "n_embd": 96, "n_layer": 3, "n_head": 6, "initializer_range": 0.25}
    ids = {"bos_token_id": 2, "eos_token_id": 2}
    return save_random_model("GPT2Config", {**sizes, **ids, **changes}, folder)


@pytest.fixture(scope="module")
def gpt2(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, transformers.PreTrainedModel]:
    folder = tmp_path_factory.mktemp("gpt2")
    return folder, tiny_gpt2(folder)


@pytest.fixture(scope="module", params=["reference", "cpu"])
def engine(
    request: pytest.FixtureRequest, gpt2: tuple[Path, transformers.PreTrainedModel]
) -> BareEngine:
    return BareEngine(gpt2[0], kernels=request.param)


def test_logits_agree(engine: BareEngine, gpt2: tuple[Path, transformers.PreTrainedModel]) -> None:
    check_whole_prompt(engine, gpt2[1], 560)
    check_mixed_steps(engine, gpt2[1], [290, 5, 17, 270, 131])


def test_neighbours_change_no_bit(engine: BareEngine) -> None:
    check_neighbours_change_no_bit(engine, 400)


def test_greedy_tokens_agree(gpt2: tuple[Path, transformers.PreTrainedModel]) -> None:
    check_greedy_tokens(*gpt2, prompt_len=120)


def test_the_last_position(gpt2: tuple[Path, transformers.PreTrainedModel]) -> None:
    folder, oracle = gpt2
    token_ids = random_ids(3, 1024)
    engine = BareEngine(folder, num_rows=1, max_model_len=1024)
    [logits] = engine.run([Chunk(0, token_ids, 0)])
    assert_close(logits[-1], expected_logits(oracle, token_ids)[-1])


def test_no_context_past_the_positions(gpt2: tuple[Path, transformers.PreTrainedModel]) -> None:
    config = EngineConfig(str(gpt2[0]), device="cpu", kv_cache_memory=16 << 20, max_model_len=1025)
    with pytest.raises(EngineStartError, match="1025 is more than the model's 1024 positions"):
        ModelRunner.load(config, lambda phase, fraction: None)


def test_another_mlp_and_a_head_of_its_own(tmp_path: Path) -> None:
    oracle = tiny_gpt2(tmp_path, n_inner=160, tie_word_embeddings=False)
    assert open_checkpoint(tmp_path).config.intermediate_size == 160
    check_whole_prompt(BareEngine(tmp_path), oracle, 60)


def test_the_first_files_names_and_masks(
    tmp_path: Path, gpt2: tuple[Path, transformers.PreTrainedModel]
) -> None:
    """As on the hub: without `transformer.`, and with masks beside the weights."""
    folder, oracle = gpt2
    weights = load_file(folder / "model.safetensors")
    renamed = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    for layer in range(3):
        renamed[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 1024, 1024).tril()
        renamed[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    check_whole_prompt(BareEngine(tmp_path), oracle, 60)

    renamed["transformer.wte.weight"] = renamed["wte.weight"].clone()
    save_file(renamed, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'transformer.wte.weight' is there twice"):
        open_checkpoint(tmp_path)


def test_bfloat16_is_near_float32(gpt2: tuple[Path, transformers.PreTrainedModel]) -> None:
    folder, oracle = gpt2
    token_ids = random_ids(4, 290)
    expected = expected_logits(oracle, token_ids)
    [actual] = BareEngine(folder, dtype=torch.bfloat16).run([Chunk(0, token_ids, 0)])
    assert (actual - expected).abs().mean() < 0.05 * expected.std()


def test_a_gguf_file_that_has_the_embedding_twice(
    tmp_path: Path, gpt2: tuple[Path, transformers.PreTrainedModel]
) -> None:
    """Files of older converters do, the second time as the head."""
    oracle = gpt2[1]
    head = {"output.weight": oracle.transformer.wte.weight.detach().numpy()}
    path = write_gguf_model(tmp_path / "m.gguf", "gpt2", oracle, extra_tensors=head)
    check_mixed_steps(BareEngine(path), oracle, [130, 5, 70])


def test_quantized_gguf_stays_quantized(
    tmp_path: Path, gpt2: tuple[Path, transformers.PreTrainedModel]
) -> None:
    if not select(torch.device("cpu"), torch.bfloat16).takes_grouped(32):
        pytest.skip("this processor has no such instructions, or there is no compiler")
    path = write_gguf_model(
        tmp_path / "m.gguf", "gpt2", gpt2[1],
        lambda name: "F32" if name.startswith("position") else "Q8_0",
    )  # fmt: skip
    engine = BareEngine(path, dtype=torch.bfloat16)
    token_ids = random_ids(5, 150)
    [logits] = engine.run([Chunk(0, token_ids, 0)])
    assert "8-bit weights" in engine.kernels.describe()
    expected = expected_logits(gpt2[1], token_ids)
    assert (logits - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu'; supported are gelu_new"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is true"),
        ({"scale_attn_weights": False}, "scale_attn_weights is false, which is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"n_head": 7}, "a width of 96 makes no heads of an even size"),
        ({"n_head": 32}, "a width of 96 makes no heads of an even size"),
        ({"n_positions": 1000}, r"transformer.wpe.weight has the shape \[1024, 96\]"),
        ({"n_inner": 200}, r"mlp.c_fc.weight has the shape \[96, 384\].* asks for \[96, 200\]"),
        ({"n_layer": 4}, r"the weight transformer.h.3.ln_1.weight is missing"),
        ({"n_layer": 2}, r"'transformer.h.2.*' has no place in this kind of model"),
        ({"n_embd": None}, "n_embd is missing"),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    gpt2: tuple[Path, transformers.PreTrainedModel],
    changes: dict[str, object],
    message: str,
) -> None:
    for file in gpt2[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
