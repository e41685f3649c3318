"""Models against transformers on small random weights, and the invariance of their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from agreement import assert_close, check_mixed_steps, check_whole_prompt, random_ids
from tiny_models import FAMILIES, BareEngine, Chunk, save_tiny_model
from torch import Tensor

from engine.checkpoint import ModelConfig
from engine.errors import CheckpointError
from engine.kernels import select
from engine.models import build_model

LENGTH = 560


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, transformers.PreTrainedModel]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save_tiny_model(request.param, folder)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    save_tiny_model("smollm2", folder)
    return folder


def in_chunks(engine: BareEngine, row: int, token_ids: list[int], lengths: list[int]) -> Tensor:
    """Logits of all positions, computed in chunks of `lengths`, then in one for the rest."""
    parts, start = [], 0
    for length in [*lengths, len(token_ids) - sum(lengths)]:
        parts += engine.run([Chunk(row, token_ids[start : start + length], start)])
        start += length
    return torch.cat(parts)


def test_whole_prompt_agrees_with_transformers(
    family: tuple[Path, transformers.PreTrainedModel],
) -> None:
    folder, oracle = family
    check_whole_prompt(BareEngine(folder), oracle, LENGTH)


def test_mixed_steps_agree_with_transformers(
    family: tuple[Path, transformers.PreTrainedModel],
) -> None:
    folder, oracle = family
    check_mixed_steps(BareEngine(folder), oracle, [290, 5, 17, 270, 131])


@pytest.mark.parametrize("block_size", [16, 48, 256])
def test_other_page_sizes(smollm2: Path, block_size: int) -> None:
    token_ids = random_ids(2, LENGTH)
    [expected] = BareEngine(smollm2).run([Chunk(0, token_ids, 0)])
    engine = BareEngine(smollm2, num_rows=2, max_model_len=LENGTH, block_size=block_size)
    assert_close(in_chunks(engine, 1, token_ids, [7, 260, 1]), expected)


@pytest.mark.parametrize("lengths", [[1] * 9, [2, 3, 5, 60], [256], [257, 1, 1, 1], [511, 1, 1, 1]])
def test_how_a_prompt_is_cut_changes_no_bit(smollm2: Path, lengths: list[int]) -> None:
    engine = BareEngine(smollm2)
    token_ids = random_ids(3, LENGTH)
    [whole] = engine.run([Chunk(0, token_ids, 0)])
    assert torch.equal(in_chunks(engine, 1, token_ids, lengths), whole)


def test_neighbours_change_no_bit(family: tuple[Path, transformers.PreTrainedModel]) -> None:
    """A row's logits alone are its logits among 15 others of other lengths, bit for bit."""
    engine = BareEngine(family[0])
    prompts = [random_ids(seed, length) for seed, length in enumerate(range(10, 640, 40))]
    engine.run([Chunk(row, prompt[:-1], 0) for row, prompt in enumerate(prompts)])
    tokens = [Chunk(row, prompt[-1:], len(prompt) - 1) for row, prompt in enumerate(prompts)]
    chunks = [Chunk(row, prompt[-9:], len(prompt) - 9) for row, prompt in enumerate(prompts)]
    for step in (tokens, chunks, tokens[::3] + chunks[1::3]):
        for chunk, logits in zip(step, engine.run(step), strict=True):
            assert torch.equal(engine.run([chunk])[0], logits)


def test_bfloat16_is_near_float32(smollm2: Path) -> None:
    token_ids = random_ids(4, LENGTH)
    [expected] = BareEngine(smollm2).run([Chunk(0, token_ids, 0)])
    actual = in_chunks(BareEngine(smollm2, dtype=torch.bfloat16), 0, token_ids, [200, 90])
    assert (actual - expected).abs().mean() < 0.05 * expected.std()


def test_unknown_architecture() -> None:
    config = ModelConfig("mamba", 10, 8, 8, 1, 1, 1, 8, 16, 1e-5, 1e4)
    with pytest.raises(CheckpointError, match="mamba"):
        build_model(config, select(torch.device("cpu"), torch.float32), torch.device("cpu"))
