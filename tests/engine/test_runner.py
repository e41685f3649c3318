"""The runner on small random models: batches as the scheduler makes them, and transformers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import save_tiny_model

from engine.batch import Batch, RowOutput, RowStart, ScheduledRow
from engine.config import EngineConfig
from engine.request import SamplingParams
from engine.runner import ModelRunner

GREEDY = SamplingParams(temperature=0.0, max_tokens=1000)
BLOCK_SIZE = 16
# 2 (keys, values) * 2 KV heads * head_dim 16 * 3 layers * float32
BLOCK_BYTES = BLOCK_SIZE * 2 * 2 * 16 * 3 * 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.PreTrainedModel]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, save_tiny_model("llama", folder)


@pytest.fixture
def runner(tiny: tuple[Path, transformers.PreTrainedModel]) -> ModelRunner:
    config = EngineConfig(
        str(tiny[0]), device="cpu", dtype="float32", kv_cache_memory=40 * BLOCK_BYTES, num_threads=1
    )
    return ModelRunner.load(config, lambda phase, fraction: None)


def prompt_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(3, 199), k=length)  # noqa: S311


def greedy(model: transformers.PreTrainedModel, prompt: list[int], num_tokens: int) -> list[int]:
    token_ids = list(prompt)
    with torch.inference_mode():
        for _ in range(num_tokens):
            token_ids.append(int(model(torch.tensor([token_ids])).logits[0, -1].argmax()))
    return token_ids[len(prompt) :]


def start(row: int, prompt: list[int], sampling: SamplingParams = GREEDY) -> RowStart:
    return RowStart(row, 0, sampling, prompt, len(prompt))


def launch(runner: ModelRunner, *rows: ScheduledRow, **parts: list) -> list[RowOutput]:
    return runner.launch(Batch(rows=list(rows), **parts)).wait()


def test_prompt_in_chunks_then_tokens(
    runner: ModelRunner, tiny: tuple[Path, transformers.PreTrainedModel]
) -> None:
    prompt = prompt_of(1, 40)
    expected = greedy(tiny[1], prompt, 12)
    first = ScheduledRow(3, 0, 25, prompt[:25], 0, [7, 30], sample=False)
    assert launch(runner, first, starts=[start(3, prompt)]) == [RowOutput([])]
    [out] = launch(runner, ScheduledRow(3, 25, 15, prompt[25:], 2, [2], sample=True))
    token_ids = out.token_ids
    for position in range(40, 51):
        new = [11] if position == 48 else []
        row = ScheduledRow(3, position, 1, token_ids[-1:], 4 if position > 48 else 3, new, True)
        token_ids += launch(runner, row)[0].token_ids
    assert token_ids == expected


def test_launches_ahead_use_the_token_on_the_device(
    runner: ModelRunner, tiny: tuple[Path, transformers.PreTrainedModel]
) -> None:
    """Three launches under way before the first is waited for, two rows in changing order."""
    prompts = [prompt_of(2, 9), prompt_of(3, 14)]
    batches = [
        Batch(
            starts=[start(0, prompts[0]), start(1, prompts[1])],
            rows=[
                ScheduledRow(0, 0, 9, prompts[0], 0, [0], True),
                ScheduledRow(1, 0, 14, prompts[1], 0, [1, 2], True),
            ],
        ),
        Batch(rows=[ScheduledRow(i, len(prompts[i]), 1, [], 2, [], True) for i in (1, 0)]),
        Batch(rows=[ScheduledRow(i, len(prompts[i]) + 1, 1, [], 2, [], True) for i in (0, 1)]),
    ]
    handles = [runner.launch(batch) for batch in batches]
    outputs = [handle.wait() for handle in handles]
    assert [o[i].token_ids[0] for o, i in zip(outputs, (0, 1, 0), strict=True)] == greedy(
        tiny[1], prompts[0], 3
    )
    assert [o[i].token_ids[0] for o, i in zip(outputs, (1, 0, 1), strict=True)] == greedy(
        tiny[1], prompts[1], 3
    )


def test_fork_shares_full_pages_and_copies_the_partial_one(
    runner: ModelRunner, tiny: tuple[Path, transformers.PreTrainedModel]
) -> None:
    prompt = prompt_of(4, 21)
    expected = greedy(tiny[1], prompt, 3)
    first = ScheduledRow(0, 0, 21, prompt, 0, [5, 6], True)
    assert launch(runner, first, starts=[start(0, prompt)])[0].token_ids == expected[:1]
    fork = ScheduledRow(1, 20, 1, prompt[20:], 0, [5, 9], True)
    own = ScheduledRow(0, 21, 1, expected[:1], 2, [], True)
    outputs = launch(runner, own, fork, starts=[start(1, prompt)], copies=[(6, 9)])
    assert [out.token_ids for out in outputs] == [expected[1:2], expected[:1]]
    rows = [
        ScheduledRow(0, 22, 1, expected[1:2], 2, [], True),
        ScheduledRow(1, 21, 1, expected[:1], 2, [], True),
    ]
    assert [out.token_ids for out in launch(runner, *rows)] == [expected[2:3], expected[1:2]]


def test_a_page_is_copied_before_its_next_owner_clears_it(
    runner: ModelRunner, tiny: tuple[Path, transformers.PreTrainedModel]
) -> None:
    prompt = prompt_of(4, 21)
    expected = greedy(tiny[1], prompt, 1)
    first = ScheduledRow(0, 0, 21, prompt, 0, [5, 6], True)
    launch(runner, first, starts=[start(0, prompt)])
    fork = ScheduledRow(1, 20, 1, prompt[20:], 0, [5, 9], True)
    other = ScheduledRow(2, 0, 3, [4, 5, 6], 0, [6], True)
    starts = [start(1, prompt), start(2, [4, 5, 6])]
    outputs = launch(runner, fork, other, starts=starts, copies=[(6, 9)])
    assert [out.token_ids for out in outputs] == [expected, greedy(tiny[1], [4, 5, 6], 1)]


def test_logprobs_of_prompt_and_token(
    runner: ModelRunner, tiny: tuple[Path, transformers.PreTrainedModel]
) -> None:
    prompt = prompt_of(5, 150)
    sampling = SamplingParams(temperature=0.0, logprobs=2, prompt_logprobs=1)
    with torch.inference_mode():
        expected = tiny[1](torch.tensor([prompt])).logits[0].log_softmax(-1)
    other = ScheduledRow(0, 0, 3, [4, 5, 6], 0, [20], True)
    rows = [
        ScheduledRow(1, 0, 100, prompt[:100], 0, list(range(7)), False, prompt[1:101]),
        ScheduledRow(1, 100, 50, prompt[100:], 7, [7, 8, 9], True, prompt[101:]),
    ]
    starts = [start(0, [4, 5, 6]), start(1, prompt, sampling)]
    first = launch(runner, other, rows[0], starts=starts)
    second = launch(runner, rows[1])
    assert first[0].logprobs is None and first[0].prompt_logprobs is None
    entries = (first[1].prompt_logprobs or []) + (second[0].prompt_logprobs or [])
    assert len(entries) == 149
    for i, entry in enumerate(entries):
        assert math.isclose(entry.logprob, expected[i, prompt[i + 1]], abs_tol=1e-3)
        assert entry.top_token_ids == [expected[i].argmax()]
    assert second[0].logprobs is not None
    assert second[0].logprobs[0].top_token_ids == expected[-1].topk(2).indices.tolist()


def test_invalid_numbers_stay_in_their_row(tmp_path: Path) -> None:
    """A NaN fails its own request only, and leaves nothing behind in the pages it had."""
    model = save_tiny_model("llama", tmp_path)
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = math.nan
    model.save_pretrained(tmp_path)
    config = EngineConfig(str(tmp_path), dtype="float32", kv_cache_memory=4 * BLOCK_BYTES)
    runner = ModelRunner.load(config, lambda phase, fraction: None)
    prompt = [token_id for token_id in prompt_of(6, 20) if token_id != 50]
    expected = greedy(model, prompt, 1)
    bad = ScheduledRow(0, 0, 18, [50] * 18, 0, [0, 1], True, [50] * 17)
    good = ScheduledRow(1, 0, len(prompt), prompt, 0, [2, 3], True)
    outputs = launch(runner, bad, good, starts=[start(0, [50] * 18), start(1, prompt)])
    assert outputs[0].error is not None and outputs[0].token_ids == []
    assert outputs[1] == RowOutput(expected)
    again = ScheduledRow(0, 0, len(prompt), prompt, 0, [1, 0], True)
    assert launch(runner, again, starts=[start(0, prompt)]) == [RowOutput(expected)]


def test_batch_without_rows(runner: ModelRunner) -> None:
    assert launch(runner, starts=[start(0, [1])], copies=[(0, 1)]) == []


def test_info(runner: ModelRunner, tiny: tuple[Path, transformers.PreTrainedModel]) -> None:
    info = runner.info
    assert info.num_parameters == tiny[1].num_parameters()
    assert (info.device, info.dtype, info.num_blocks) == ("cpu", "float32", 40)
    assert info.max_num_seqs == 40 and info.max_num_batched_tokens == 512
    assert info.max_model_len == 640  # of the model's 1024, what 40 pages hold
    assert info.kernels.startswith(("C++ (", "plain torch ("))
    assert runner.scheduler_config.num_blocks == 40


def test_dummy_weights_need_a_config_only(tmp_path: Path) -> None:
    save_tiny_model("qwen2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2"
    progress: list[tuple[str, float]] = []
    config = EngineConfig(str(tmp_path), load_format="dummy", kv_cache_memory=1 << 20)
    tokens = []
    for _ in range(2):
        runner = ModelRunner.load(config, lambda *args: progress.append(args))
        row = ScheduledRow(0, 0, 5, [1, 2, 3, 4, 5], 0, [0], True)
        tokens.append(launch(runner, row, starts=[start(0, [1, 2, 3, 4, 5])])[0].token_ids)
    assert tokens[0] == tokens[1] and len(tokens[0]) == 1
    assert progress[0] == ("making random weights", 0.0) and progress[-1][1] == 1.0
