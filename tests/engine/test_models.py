"""Models against transformers on small random weights, and the invariance of their numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import transformers
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


def random_ids(seed: int, length: int = LENGTH) -> list[int]:
    return random.Random(seed).choices(range(199), k=length)  # noqa: S311


def expected_logits(model: transformers.PreTrainedModel, token_ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([token_ids])).logits[0]
    return logits


def in_chunks(engine: BareEngine, row: int, token_ids: list[int], lengths: list[int]) -> Tensor:
    """Logits of all positions, computed in chunks of `lengths`, then in one for the rest."""
    parts, start = [], 0
    for length in [*lengths, len(token_ids) - sum(lengths)]:
        parts += engine.run([Chunk(row, token_ids[start : start + length], start)])
        start += length
    return torch.cat(parts)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def test_whole_prompt_agrees_with_transformers(
    family: tuple[Path, transformers.PreTrainedModel],
) -> None:
    folder, oracle = family
    token_ids = random_ids(1)
    [logits] = BareEngine(folder).run([Chunk(0, token_ids, 0)])
    assert_close(logits, expected_logits(oracle, token_ids))


def test_mixed_steps_agree_with_transformers(
    family: tuple[Path, transformers.PreTrainedModel],
) -> None:
    folder, oracle = family
    engine = BareEngine(folder)
    prompts = [random_ids(seed, length) for seed, length in enumerate((290, 5, 17, 270, 131))]
    done = [0] * len(prompts)
    parts: list[list[Tensor]] = [[] for _ in prompts]
    rng = random.Random(5)  # noqa: S311
    while any(d < len(p) for d, p in zip(done, prompts, strict=True)):
        chunks = []
        for row, prompt in enumerate(prompts):
            length = min(rng.choice((0, 1, 1, 2, 3, 40, 61)), len(prompt) - done[row])
            if length:
                chunks.append(Chunk(row, prompt[done[row] : done[row] + length], done[row]))
                done[row] += length
        rng.shuffle(chunks)
        if chunks:
            for chunk, logits in zip(chunks, engine.run(chunks), strict=True):
                parts[chunk.row].append(logits)
    for prompt, logits in zip(prompts, parts, strict=True):
        assert_close(torch.cat(logits), expected_logits(oracle, prompt))


@pytest.mark.parametrize("block_size", [16, 48, 256])
def test_other_page_sizes(smollm2: Path, block_size: int) -> None:
    token_ids = random_ids(2)
    [expected] = BareEngine(smollm2).run([Chunk(0, token_ids, 0)])
    engine = BareEngine(smollm2, num_rows=2, max_model_len=LENGTH, block_size=block_size)
    assert_close(in_chunks(engine, 1, token_ids, [7, 260, 1]), expected)


@pytest.mark.parametrize("lengths", [[1] * 9, [2, 3, 5, 60], [256], [257, 1, 1, 1], [511, 1, 1, 1]])
def test_how_a_prompt_is_cut_changes_no_bit(smollm2: Path, lengths: list[int]) -> None:
    engine = BareEngine(smollm2)
    token_ids = random_ids(3)
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
    token_ids = random_ids(4)
    [expected] = BareEngine(smollm2).run([Chunk(0, token_ids, 0)])
    actual = in_chunks(BareEngine(smollm2, dtype=torch.bfloat16), 0, token_ids, [200, 90])
    assert (actual - expected).abs().mean() < 0.05 * expected.std()


def test_unknown_architecture() -> None:
    config = ModelConfig("mamba", 10, 8, 8, 1, 1, 1, 8, 16, 1e-5, 1e4)
    with pytest.raises(CheckpointError, match="mamba"):
        build_model(config, select(torch.device("cpu"), torch.float32), torch.device("cpu"))
