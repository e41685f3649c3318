"""Integers and file bytes on their way to the device; here both sides are the same memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.batch import Batch, RowStart, ScheduledRow
from engine.checkpoint import TensorData
from engine.request import SamplingParams
from engine.staging import Staging
from engine.step_inputs import UNKNOWN, step_inputs
from engine.upload import Uploader
from engine.weights import _read_on_host, _to_torch

CPU = torch.device("cpu")


def test_columns_arrive_as_they_are() -> None:
    staging = Staging(CPU, 2)
    big = list(range(10_000))  # more than the buffer has room for at first
    for columns in ([[1, 2], [], [-1]], [[], []], [big, [2**62]], [[5], big[::-1]]):
        sent = staging.send(*columns)
        assert [column.tolist() for column in sent] == columns
        assert all(column.dtype == torch.int64 for column in sent)


def test_what_was_sent_stays_until_the_ring_comes_round() -> None:
    staging = Staging(CPU, 3)
    sent = [staging.send([i, i])[0] for i in range(3)]
    assert [column.tolist() for column in sent] == [[0, 0], [1, 1], [2, 2]]
    staging.send([3, 3])
    assert [column.tolist() for column in sent[1:]] == [[1, 1], [2, 2]]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
def test_uploaded_in_chunks(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    data.setflags(write=False)
    uploaded = Uploader(CPU, chunk_bytes=16).upload(data)
    assert uploaded.dtype == torch.uint8
    assert uploaded.tolist() == data.tolist()


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_weights_read_in_chunks_are_those_of_the_file(dtype: str) -> None:
    raw = np.random.default_rng(1).integers(0, 60, 4 * 15, dtype=np.uint8)  # no NaN
    size = {"F32": 4, "BF16": 2, "F16": 2}[dtype]
    data = TensorData(dtype, (len(raw) // size // 5, 5), raw)
    weight = _to_torch(data, Uploader(CPU, chunk_bytes=7).upload)
    assert weight.shape == data.shape
    assert torch.equal(weight, _to_torch(data, _read_on_host))


def test_a_batch_as_columns() -> None:
    """A prompt's chunk on its second and third page, a token not known yet, one with guesses."""
    rows = [
        ScheduledRow(2, 6, 3, [1, 2, 3], 1, [9, 8], sample=False),
        ScheduledRow(0, 5, 1, [], 2, [], sample=True),
        ScheduledRow(1, 7, 3, [4, 5, 6], 2, [7], sample=True, num_drafts=2),
    ]
    starts = [RowStart(2, 0, SamplingParams(), [1, 2, 3], 3)]
    inputs = step_inputs(Batch(starts, [(3, 9)], rows), block_size=4, max_blocks=10)
    assert inputs.started_rows == [2]
    assert (inputs.copy_sources, inputs.copy_targets) == ([3], [9])
    assert (inputs.page_places, inputs.page_ids) == ([21, 22, 12], [9, 8, 7])
    assert inputs.empty_pages == [8, 7]  # page 9 has positions 4 and 5 already
    assert inputs.token_ids == [1, 2, 3, UNKNOWN, 4, 5, 6]
    assert inputs.token_rows == [2, 2, 2, 0, 1, 1, 1]
    assert inputs.positions == [6, 7, 8, 5, 7, 8, 9]
    assert inputs.sample_places == [3, 4, 5, 6]
    assert inputs.sample_rows == [0, 1, 1, 1]
    assert inputs.sample_positions == [6, 8, 9, 10]
    inputs.pad(8, padding_row=30)
    assert (inputs.token_ids[7:], inputs.token_rows[7:], inputs.positions[7:]) == ([0], [30], [0])
