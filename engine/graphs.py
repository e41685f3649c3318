"""Decode steps recorded once and replayed: one launch by the host in place of hundreds.

A step in which every row has one token is filled up with tokens of nobody's to the next of a few
sizes, each recorded beforehand over the same buffers. All other steps run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from engine.attention import Span
from engine.batch import Runner

# tokens [3, num_tokens] int64 (ids, rows, positions), spans -> hidden [num_tokens, hidden_size]
Forward = Callable[[Tensor, list[Span]], Tensor]

# Larger decode steps are limited by the device, not by the launches.
_MAX_SIZE = 256
_SMALL_SIZES = (1, 2, 4)
_STEP = 8


class Recorder(Protocol):
    """Makes an operation on the device cheap to repeat."""

    def record(self, operation: Callable[[], None]) -> Callable[[], None]:
        """What repeats `operation` on the same memory. Its host side runs now and not again."""


class RecordingRunner(Runner, Protocol):
    """A runner that may replay its decode steps."""

    @property
    def can_record(self) -> bool:
        """Whether its kernels can be recorded."""

    def record_decoding(self, recorder: Recorder, sizes: list[int]) -> None:
        """Replay steps in which every row decodes from now on, padded to one of `sizes`."""


class CudaRecorder:
    """CUDA graphs with one pool of memory: replays never overlap, so they may share it.

    And one stream: cuBLAS keeps a workspace (32 MiB on Hopper) for each one that it was used on.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, operation: Callable[[], None]) -> Callable[[], None]:
        # Once for real: kernels are compiled and libraries make their workspaces, which a capture
        # forbids.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            operation()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            operation()
        return graph.replay


class DecodeGraphs:
    """Recorded steps of some sizes, the largest first: the smaller ones fit into its memory."""

    def __init__(
        self,
        forward: Forward,
        recorder: Recorder,
        sizes: list[int],
        padding_row: int,
        output: Tensor,
    ) -> None:
        """`forward` must read `tokens` on the device only. `padding_row` is in nobody's use.

        `output` has the form of a hidden state [hidden_size], and its device and dtype.
        """
        max_size = max(sizes)
        self._forward = forward
        self._padding_row = padding_row
        self._tokens = torch.zeros((3, max_size), dtype=torch.int64, device=output.device)
        self._tokens[1] = padding_row
        self._hidden = output.new_empty((max_size, *output.shape))
        self._replays: dict[int, Callable[[], None]] = {}
        for size in sorted(sizes, reverse=True):
            self._replays[size] = recorder.record(partial(self._run, size))
        self._sizes = sorted(sizes)

    def size_for(self, num_rows: int) -> int | None:
        """The size to pad a step of so many rows to; None when there is none so large."""
        return next((size for size in self._sizes if size >= num_rows), None)

    def replay(self, tokens: Tensor) -> Tensor:
        """`tokens` [3, size], padded -> hidden [size, hidden_size], valid until the next replay."""
        size = tokens.shape[1]
        self._tokens[:, :size] = tokens
        self._replays[size]()
        return self._hidden[:size]

    def _run(self, size: int) -> None:
        spans = [Span(self._padding_row, i, num_tokens=1, start=0) for i in range(size)]
        self._hidden[:size] = self._forward(self._tokens[:, :size], spans)


def decode_sizes(max_num_seqs: int) -> list[int]:
    """The sizes worth recording: close to each other, since padding is computed in vain."""
    largest = min(max_num_seqs, _MAX_SIZE)
    sizes = {*_SMALL_SIZES, *range(_STEP, largest, _STEP), largest}
    return sorted(size for size in sizes if size <= largest)
