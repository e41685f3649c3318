"""Steps of rows of unequal lengths on scattered pages."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.attention import Span, StepLayout


def ragged_layout(
    spans: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, block_size: int
) -> tuple[StepLayout, int]:
    """A layout of (start, num_tokens) rows with scattered pages; and the number of blocks."""
    num_blocks_of = [math.ceil((start + n) / block_size) for start, n in spans]
    order = torch.randperm(sum(num_blocks_of) + 3).tolist()
    num_blocks, blank = len(order), len(order)
    tables = torch.full((len(spans), max(num_blocks_of) + 2), blank, dtype=torch.int32)
    for row, count in enumerate(num_blocks_of):
        tables[row, :count] = torch.tensor([order.pop() for _ in range(count)])
    placed, first = [], 0
    for row, (start, num_tokens) in enumerate(spans):
        placed.append(Span(row, first, num_tokens, start))
        first += num_tokens
    layout = StepLayout(
        spans=placed,
        rows=torch.cat([torch.full((s.num_tokens,), s.row) for s in placed]),
        positions=torch.cat([torch.arange(s.start, s.context_len) for s in placed]),
        block_tables=tables,
        blank_block=blank,
        block_size=block_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
    )
    return layout, num_blocks


def contexts(layout: StepLayout, kv: Tensor) -> list[Tensor]:
    """[2, kv_heads, context_len, head_dim] of each row, read page by page."""
    result = []
    for span in layout.spans:
        pages = [kv[block] for block in layout.block_tables[span.row].tolist()]
        result.append(torch.cat(pages, dim=2)[:, :, : span.context_len])
    return result
