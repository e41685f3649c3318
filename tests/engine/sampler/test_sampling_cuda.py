"""The device changes neither the integers of the noise nor the tokens drawn."""

import pytest
import torch

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler import SamplingState
from engine.sampler.gumbel import hash_token_ids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PARAMS = [
    SamplingParams(temperature=0.0, repetition_penalty=1.3, logprobs=3),
    SamplingParams(seed=1, logprobs=0),
    SamplingParams(seed=2, top_p=0.9, min_tokens=5, stop_token_ids=(1, 2)),
    SamplingParams(seed=3, top_k=40, top_p=0.9, logit_bias={5: 2.0}),
    SamplingParams(seed=4, min_p=0.05, frequency_penalty=0.4),
    SamplingParams(seed=5, allowed_token_ids=(7, 8, 9, 500), bad_words=((7, 7), (8, 9), (9,))),
    SamplingParams(seed=6, top_k=2, bad_words=tuple((i, i + 1) for i in range(2000))),
]


def draw(device: torch.device, logits: torch.Tensor) -> list[list[int]]:
    state = SamplingState(len(PARAMS), logits.shape[-1], device)
    for row, params in enumerate(PARAMS):
        state.start(RowStart(row, 0, params, [1, 2, 3], 3))
    rows = list(range(len(PARAMS)))
    launches = [
        state.sample(step.to(device), rows, [3 + i] * len(rows)) for i, step in enumerate(logits)
    ]
    answers = [launch.wait() for launch in launches]
    assert all(errors == [None] * len(rows) for _, _, errors in answers)
    return [token_ids for token_ids, _, _ in answers]


def test_hashes_are_equal() -> None:
    token_ids = torch.arange(50_000, dtype=torch.int32)[None]
    keys = torch.tensor([[0, 0], [-1, 5], [123456789, -987654321]], dtype=torch.int32)
    on_device = hash_token_ids(token_ids.cuda(), keys.cuda())
    assert torch.equal(on_device.cpu(), hash_token_ids(token_ids, keys))


def test_overlapped_launches_draw_what_the_cpu_draws() -> None:
    logits = torch.randn(20, len(PARAMS), 50_000, generator=torch.Generator().manual_seed(6)) * 2
    assert draw(torch.device("cuda"), logits) == draw(torch.device("cpu"), logits)
