"""Decode steps padded and replayed: the tokens are those of steps as they are.

Without a GPU a replay runs the recorded step again, over the same buffers. The kernels plan from
the device's tensors alone, as those for graphs must.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from replayed_steps import Rerun, replayable_runner
from tiny_models import save_tiny_model

from engine.batch import Batch, Handle
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.device import resolve_target
from engine.graphs import decode_sizes
from engine.request import Request, SamplingParams
from engine.runner import ModelRunner

MAX_NUM_SEQS = 20
SIZES = [1, 2, 4, 8, 16, 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    model = save_tiny_model("llama", folder)
    with torch.no_grad():  # what padding computes must leave traces, and token 0 is all zeros
        model.get_input_embeddings().weight[0] = 0.5
    model.save_pretrained(folder)
    return folder


def requests(num_requests: int) -> list[Request]:
    """Of different lengths, greedy and seeded, so that the batch shrinks while it runs."""
    return [
        Request(
            f"r{i}",
            [3 + (7 * i + k) % 190 for k in range(1 + 5 * i % 40)],
            SamplingParams(
                temperature=0.0 if i % 2 else 0.9,
                seed=i,
                max_tokens=3 + i % 4,
                repetition_penalty=1.2 if i % 7 == 0 else 1.0,
                prompt_logprobs=0 if i == 5 else None,
            ),
        )
        for i in range(num_requests)
    ]


def run(core: EngineCore, num_requests: int) -> dict[str, list[int]]:
    for request in requests(num_requests):
        core.add(request)
    token_ids: dict[str, list[int]] = {f"r{i}": [] for i in range(num_requests)}
    while core.has_work:
        for output in core.step():
            assert output.error is None
            token_ids[output.request_id] += output.token_ids
        core.scheduler.check_integrity()
    return token_ids


class Watched:
    """Counts the steps that can be replayed, by their numbers of rows."""

    def __init__(self, runner: ModelRunner) -> None:
        self.max_launches = runner.max_launches
        self.decode_steps: Counter[int] = Counter()
        self._runner = runner

    def launch(self, batch: Batch) -> Handle:
        if all(row.num_tokens == 1 and row.prompt_targets is None for row in batch.rows):
            self.decode_steps[len(batch.rows)] += 1
        return self._runner.launch(batch)


@pytest.mark.parametrize("max_launches", [1, 2])
def test_tokens_are_those_of_eager_steps(folder: Path, max_launches: int) -> None:
    """For every number of requests, with nonsense in the page that the padding writes to."""
    eager, replayed = (
        replayable_runner(folder, MAX_NUM_SEQS),
        replayable_runner(folder, MAX_NUM_SEQS),
    )
    recorder = Rerun()
    replayed.record_decoding(recorder, SIZES)
    limits = eager.scheduler_config
    cache = replayed._kv_cache
    watched = Watched(replayed)
    for num_requests in range(1, MAX_NUM_SEQS + 1):
        for layer in cache.layers:
            layer[cache.scratch_block] = math.nan
        expected = run(EngineCore(eager, limits), num_requests)
        assert run(EngineCore(watched, limits, max_launches), num_requests) == expected
        assert all(len(token_ids) >= 3 for token_ids in expected.values())
    assert not any(layer[cache.blank_block].any() for layer in cache.layers)
    # Each decode step, and no other, was a replay of the smallest size that holds it.
    steps: Counter[int] = Counter()
    for num_rows, count in watched.decode_steps.items():
        steps[min(size for size in SIZES if size >= num_rows)] += count
    assert recorder.replays == [steps[size] for size in reversed(SIZES)]
    assert set(watched.decode_steps) == set(range(1, MAX_NUM_SEQS + 1))


def test_a_step_larger_than_all_sizes_runs_as_it_is(folder: Path) -> None:
    eager, replayed = (
        replayable_runner(folder, MAX_NUM_SEQS),
        replayable_runner(folder, MAX_NUM_SEQS),
    )
    recorder = Rerun()
    replayed.record_decoding(recorder, [1, 2])
    limits = eager.scheduler_config
    assert run(EngineCore(replayed, limits), 6) == run(EngineCore(eager, limits), 6)
    assert sum(recorder.replays) > 0


def test_sizes() -> None:
    assert decode_sizes(1) == [1]
    assert decode_sizes(6) == [1, 2, 4, 6]
    assert decode_sizes(20) == [1, 2, 4, 8, 16, 20]
    assert decode_sizes(256) == [1, 2, 4, *range(8, 257, 8)] == decode_sizes(1000)


def test_the_cpu_launches_one_step_at_a_time(folder: Path) -> None:
    assert replayable_runner(folder, MAX_NUM_SEQS).max_launches == 1
    assert replace(resolve_target(EngineConfig("m")), device=torch.device("cuda")).max_launches == 2
