"""How a step's attention is cut into programs: tiles of queries, times KV heads, times splits.

A tile is one or more tokens of one row with all query heads of a KV head, packed as rows of one
matrix. Rows with few tokens get small tiles, so that hardly anything is computed for nothing; what
prompts have to compute gets large ones, so that keys are read once for many queries. Where there
are too few tiles for the device, each reads its context in several splits, merged afterwards.

When each row has one token, the plan follows from the number of tokens and the table's width alone.
Then it copies nothing to the device, and may be made while a CUDA graph is captured, for buffers
whose content changes from replay to replay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from engine.attention import AttentionPlan, Span, StepLayout

# The reduction reads this many at once; a power of 2.
MAX_SPLITS = 64
# Products have at least so many terms.
_MIN_POSITIONS = 16
# Pages' places, and a reserve.
_OTHER_SHARED_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Processors:
    """Of a device: how many, and how many bytes the threads of a program may share on one."""

    count: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class TileShape:
    """`num_rows` queries (tokens times heads of a group) against `num_positions` keys at a time.

    `programs_wanted` of each of the device's processors keep its memory busy. Of `num_stages` in
    the loop the block table takes one half and the pages that it names the other.
    """

    num_rows: int
    num_positions: int
    num_warps: int
    num_stages: int
    programs_wanted: int

    def num_tokens(self, group: int) -> int:
        """How many tokens of `group` query heads each fit in."""
        return self.num_rows // group


@dataclass(frozen=True, slots=True)
class Launch:
    """Programs of one shape. `tiles` [num_tiles, 2] int32 is (first token, number of tokens) of
    each; None where tile i is token i.

    With more than one split, `partial_out` [num_tiles, kv_heads, num_splits, rows, head_dim] and
    `partial_lse` (logarithms, to base 2, of the sums of weights) take what each split sees.
    """

    shape: TileShape
    num_tiles: int
    tiles: Tensor | None
    num_splits: int
    partial_out: Tensor
    partial_lse: Tensor


@dataclass(frozen=True)
class TritonPlan(AttentionPlan):
    """`attended` [num_tokens, heads, head_dim] is every layer's result in turn."""

    layout: StepLayout
    launches: list[Launch]
    attended: Tensor


def make_plan(layout: StepLayout, dtype: torch.dtype, processors: Processors) -> TritonPlan:
    """See `Kernels.plan`; the number of processors decides the number of splits."""
    num_tokens = layout.rows.shape[0]
    small, large = tile_shapes(layout, dtype, processors.shared_bytes)
    if all(span.num_tokens == 1 for span in layout.spans):
        width = layout.block_tables.shape[1] * layout.block_size
        launches = [_launch(layout, small, num_tokens, None, width, processors.count)]
    else:
        launches = _launches_of_spans(layout, small, large, processors.count)
    attended = torch.empty(
        (num_tokens, layout.num_heads, layout.head_dim), dtype=dtype, device=layout.rows.device
    )
    return TritonPlan(
        positions=layout.positions,
        spans=layout.spans,
        layout=layout,
        launches=launches,
        attended=attended,
    )


def tile_shapes(
    layout: StepLayout, dtype: torch.dtype, shared_bytes: int
) -> tuple[TileShape, TileShape]:
    """For rows with few tokens, and for those with many.

    The tensor cores want at least 16 rows. Keys and values of a step of the loop take at most 16 KB
    each, and two steps are under way at once where the `shared_bytes` of a program allow it. In
    float32, which the tensor cores do not have, rows are computed in registers: fewer of them.
    """
    row_bytes = triton.next_power_of_2(layout.head_dim) * dtype.itemsize
    num_positions = 64 if row_bytes <= 256 else 32
    group_rows = triton.next_power_of_2(layout.num_heads // layout.num_kv_heads)
    small = TileShape(max(16, group_rows), num_positions, 4, 5, 8)
    if dtype == torch.float32:
        large = TileShape(max(32, group_rows), num_positions, 4, 2, 1)
    elif row_bytes > 256:
        large = TileShape(max(64, group_rows), num_positions, 4, 2, 1)
    else:
        large = TileShape(max(128, group_rows), num_positions, 8, 5, 1)
    return _fitting(small, row_bytes, dtype, shared_bytes), _fitting(
        large, row_bytes, dtype, shared_bytes
    )


def _fitting(shape: TileShape, row_bytes: int, dtype: torch.dtype, shared_bytes: int) -> TileShape:
    """The same with less at a time, as far as it takes: steps under way first, then positions."""
    while _shared_bytes(shape, row_bytes, dtype) > shared_bytes:
        if shape.num_stages > 2:
            shape = replace(shape, num_stages=2)
        elif shape.num_positions > _MIN_POSITIONS:
            shape = replace(shape, num_positions=shape.num_positions // 2)
        else:
            break
    return shape


def _shared_bytes(shape: TileShape, row_bytes: int, dtype: torch.dtype) -> int:
    """What Triton's compilers ask for, at most, on GPUs whose programs share least.

    Keys and values of the steps under way, of which there are two from 5 stages on; queries; and
    weights, which stay in registers where there are warps enough.
    """
    num_steps = 2 if shape.num_stages > 4 else 1
    keys_and_values = 2 * num_steps * shape.num_positions * row_bytes
    weights = shape.num_rows * shape.num_positions * dtype.itemsize if shape.num_warps == 4 else 0
    return keys_and_values + shape.num_rows * row_bytes + weights + _OTHER_SHARED_BYTES


def _launches_of_spans(
    layout: StepLayout, small: TileShape, large: TileShape, num_processors: int
) -> list[Launch]:
    group = layout.num_heads // layout.num_kv_heads
    few = small.num_tokens(group)
    parts: list[tuple[TileShape, list[tuple[int, int]], int]] = []
    for shape, spans in (
        (large, [span for span in layout.spans if span.num_tokens > few]),
        (small, [span for span in layout.spans if span.num_tokens <= few]),
    ):
        if spans:
            longest = max(span.context_len for span in spans)
            parts.append((shape, _tiles(spans, shape.num_tokens(group)), longest))
    device = layout.rows.device
    # One transfer for all that the host knows. Pinned, so that nobody waits for it.
    all_tiles = torch.tensor(
        [tile for _, tiles, _ in parts for tile in tiles],
        dtype=torch.int32,
        pin_memory=device.type == "cuda",
    ).to(device, non_blocking=True)
    split = all_tiles.split_with_sizes([len(tiles) for _, tiles, _ in parts])
    return [
        _launch(layout, shape, len(tiles), on_device, longest, num_processors)
        for (shape, tiles, longest), on_device in zip(parts, split, strict=True)
    ]


def _tiles(spans: list[Span], tile_tokens: int) -> list[tuple[int, int]]:
    """(first token, number of tokens), those with the longest context first: they take longest."""
    tiles = [
        (span.start + offset + count, span.first_token + offset, count)
        for span in spans
        for offset in range(0, span.num_tokens, tile_tokens)
        for count in [min(tile_tokens, span.num_tokens - offset)]
    ]
    tiles.sort(reverse=True)
    return [(first, count) for _, first, count in tiles]


def _launch(
    layout: StepLayout,
    shape: TileShape,
    num_tiles: int,
    tiles: Tensor | None,
    max_context: int,
    num_processors: int,
) -> Launch:
    device = layout.rows.device
    num_programs = num_tiles * layout.num_kv_heads
    num_splits = min(
        shape.programs_wanted * num_processors // num_programs,
        triton.cdiv(max_context, shape.num_positions),
        MAX_SPLITS,
    )
    num_splits = max(num_splits, 1)
    num_lines = num_programs * num_splits * shape.num_rows if num_splits > 1 else 0
    return Launch(
        shape=shape,
        num_tiles=num_tiles,
        tiles=tiles,
        num_splits=num_splits,
        partial_out=torch.empty((num_lines, layout.head_dim), dtype=torch.float32, device=device),
        partial_lse=torch.empty((num_lines,), dtype=torch.float32, device=device),
    )
