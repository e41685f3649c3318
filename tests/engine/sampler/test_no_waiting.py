"""A launch never reads from the device: it runs on `meta` tensors, which have nothing to read."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler import SamplingState, edits, state, torch_draw
from engine.sampler.rows import Numbers
from engine.sampler.torch_draw import TorchDraw
from engine.sampler.transfer import IntArray

META = torch.device("meta")
VOCAB = 5000

PARAMS = [
    SamplingParams(temperature=0.0, repetition_penalty=1.3, logprobs=3),
    SamplingParams(seed=1, logprobs=0),
    SamplingParams(seed=2, top_p=0.9, min_tokens=5, stop_token_ids=(1, 2)),
    SamplingParams(seed=3, top_k=40, top_p=0.9, logit_bias={5: 2.0, 7: -100.0}, logprobs=20),
    SamplingParams(seed=4, min_p=0.05, frequency_penalty=0.4),
    SamplingParams(seed=5, allowed_token_ids=(7, 8, 9, 500), bad_words=((7, 7), (8, 9), (9,))),
    SamplingParams(seed=6, top_k=2, bad_words=tuple((i, i + 1) for i in range(100))),
]


class NoCopy:
    """In the place of `HostCopy`, which starts the one copy that there is."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        assert all(tensor.is_meta for tensor in tensors)


def to_meta(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def draw_anything(logits: Tensor, numbers: Numbers, positions: IntArray) -> Tensor:
    return torch.empty(len(logits), dtype=torch.int64, device=logits.device)


@pytest.fixture
def without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`to_device` would pin memory, which takes a GPU."""
    monkeypatch.setattr(state, "HostCopy", NoCopy)
    for module in (state, edits, torch_draw):
        monkeypatch.setattr(module, "to_device", to_meta)
    monkeypatch.setattr("engine.sampler.transfer.to_device", to_meta)


def sample(sampling: SamplingState, params: list[SamplingParams]) -> None:
    num_rows = len(params)
    for row, row_params in enumerate(params):
        sampling.start(RowStart(row, 0, row_params, [1, 2, 3, 4], 3))
    for position in (4, 5, 3000):
        logits = torch.empty(num_rows, VOCAB, device=META)
        sampled = sampling.sample(logits, list(range(num_rows)), [position] * num_rows)
        assert sampled.token_ids.shape == (num_rows,)


@pytest.mark.usefixtures("without_copies")
def test_edits_history_and_logprobs_do_not_wait() -> None:
    sample(SamplingState(len(PARAMS), VOCAB, META, draw_anything), PARAMS)
    for params in PARAMS:
        sample(SamplingState(1, VOCAB, META, draw_anything), [params])


@pytest.mark.usefixtures("without_copies")
def test_the_draw_by_sorting_does_not_wait() -> None:
    draw = TorchDraw(VOCAB, META, 1 << 25, sorts_nuclei=True)
    sample(SamplingState(len(PARAMS), VOCAB, META, draw), PARAMS)


@pytest.mark.usefixtures("without_copies")
def test_reading_from_the_device_is_noticed() -> None:
    draw = TorchDraw(VOCAB, META, 1 << 25, sorts_nuclei=False)
    with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
        sample(SamplingState(len(PARAMS), VOCAB, META, draw), PARAMS)
