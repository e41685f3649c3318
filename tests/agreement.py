"""What "equal to transformers" means for a small float32 model, whatever its family.

`oracle` is the model as transformers has it, `folder` the same one on disk. Logits must be within
1e-4 of their spread, greedy tokens the same for as long as the oracle's two best differ.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from tiny_models import BareEngine, Chunk
from torch import Tensor
from transformers import PreTrainedModel

from engine import EngineConfig, Request, SamplingParams
from engine.core import EngineCore
from engine.request import ChoiceOutput
from engine.runner import ModelRunner

NUM_TOKENS = 40
_MARGIN = 1e-3


def random_ids(seed: int, length: int, vocab_size: int = 199) -> list[int]:
    return random.Random(seed).choices(range(vocab_size), k=length)  # noqa: S311


def expected_logits(oracle: PreTrainedModel, token_ids: list[int]) -> Tensor:
    """[num_tokens, vocab_size]"""
    with torch.inference_mode():
        logits: Tensor = oracle(torch.tensor([token_ids])).logits[0]
    return logits


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def check_whole_prompt(engine: BareEngine, oracle: PreTrainedModel, length: int) -> None:
    token_ids = random_ids(1, length)
    [logits] = engine.run([Chunk(0, token_ids, 0)])
    assert_close(logits, expected_logits(oracle, token_ids))


def mixed_steps(engine: BareEngine, prompts: list[list[int]]) -> list[Tensor]:
    """The logits of each prompt, computed in steps of any chunks of any of them."""
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
    return [torch.cat(logits) for logits in parts]


def check_mixed_steps(engine: BareEngine, oracle: PreTrainedModel, lengths: list[int]) -> None:
    """Prompts of `lengths` in steps of any chunks of any of them."""
    prompts = [random_ids(seed, length) for seed, length in enumerate(lengths)]
    for prompt, logits in zip(prompts, mixed_steps(engine, prompts), strict=True):
        assert_close(logits, expected_logits(oracle, prompt))


def check_neighbours_change_no_bit(engine: BareEngine, length: int) -> None:
    """A row's logits alone are those among others, and those of a prompt cut otherwise."""
    lengths = range(10, length + 1, (length - 10) // 7)
    prompts = [random_ids(seed, length) for seed, length in enumerate(lengths)]
    whole = engine.run([Chunk(row, prompt, 0) for row, prompt in enumerate(prompts)])
    tokens = [Chunk(row, prompt[-1:], len(prompt) - 1) for row, prompt in enumerate(prompts)]
    for prompt, logits, last in zip(prompts, whole, engine.run(tokens), strict=True):
        assert torch.equal(last[0], logits[-1])
        assert torch.equal(engine.run([Chunk(15, prompt, 0)])[0], logits)


def check_greedy_tokens(folder: Path, oracle: PreTrainedModel, prompt_len: int) -> None:
    """By the real runner and scheduler: in company, from cached prefixes, chunked, preempted."""
    prefix = random_ids(99, prompt_len - 20)
    prompts = [prefix + random_ids(seed, 20 - seed) for seed in range(4)] + [random_ids(7, 3)]
    runner = ModelRunner.load(
        EngineConfig(str(folder), device="cpu", dtype="float32", kv_cache_memory=8 << 20),
        lambda phase, fraction: None,
    )
    limits = runner.scheduler_config
    num_blocks = -(-(prompt_len + NUM_TOKENS) // limits.block_size) + 3
    few_blocks = replace(
        limits, num_blocks=num_blocks, max_model_len=prompt_len + NUM_TOKENS,
        max_num_batched_tokens=37,
    )  # fmt: skip
    core = EngineCore(runner, limits)
    answers = _generate(core, prompts)
    again = _generate(core, prompts)
    assert [outputs[0].num_cached_tokens > 0 for outputs in again] == [True] * 4 + [False]
    cramped = EngineCore(runner, few_blocks)
    preempted = _generate(cramped, prompts)
    assert cramped.stats().num_preemptions > 0
    for prompt, *drawn in zip(prompts, answers, again, preempted, strict=True):
        for outputs in drawn:
            _check_greedy(oracle, prompt, [i for output in outputs for i in output.token_ids])


def _generate(core: EngineCore, prompts: list[list[int]]) -> list[list[ChoiceOutput]]:
    outputs: dict[str, list[ChoiceOutput]] = {f"p{i}": [] for i in range(len(prompts))}
    for name, prompt in zip(outputs, prompts, strict=True):
        sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)
        core.add(Request(name, prompt, sampling))
    while core.has_work:
        for output in core.step():
            assert output.error is None
            outputs[output.request_id].append(output)
        core.scheduler.check_integrity()
    return list(outputs.values())


def _check_greedy(oracle: PreTrainedModel, prompt: list[int], answer: list[int]) -> None:
    assert len(answer) == NUM_TOKENS
    logits = expected_logits(oracle, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
    best = logits.topk(2)
    margins = best.values[:, 0] - best.values[:, 1]
    unsure = (margins <= _MARGIN).nonzero()
    num_certain = int(unsure[0]) if len(unsure) else NUM_TOKENS
    assert num_certain > NUM_TOKENS // 4, "this prompt says too little"
    assert answer[:num_certain] == best.indices[:num_certain, 0].tolist()
