"""Causal attention over pages in plain torch, for every mix of prompt chunks and single tokens.

The context is read in chunks of a fixed number of positions, merged from the first to the last, so
that no sum's order depends on the other rows or on how a prompt was cut. Rows with one token are
computed together; rows with several one after the other. Softmax and merging are in float32.
Chunks that lie before every window are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import AttentionPlan, AttentionRule, Span, StepLayout

# Positions read at once. Fixed, never fitted to the batch: it decides the order of summation.
_CHUNK_LEN = 256
# Chunks of single tokens' contexts that are gathered at once, but one of each row at least. All of
# them may be many times what a layer's pages are: rows share pages.
_CHUNKS_AT_ONCE = 64
# From this many query rows on, the bits of a product's row do not depend on their number (MKL, in
# float32; in bfloat16, which is oneDNN's, they never do).
_MIN_QUERY_ROWS = 4
# Added to the score of a position that must not be seen. Swallows every score and gives a weight of
# exactly 0, and unlike -inf no NaN where a token sees nothing of a chunk.
_UNSEEN = -1e30


@dataclass(frozen=True, slots=True)
class _Singles:
    """The rows with one token in this step, those with most chunks first, as (chunk, row) items.

    The items of the rows' i-th chunks are the next ones and belong to the first rows, so that
    merging needs slices only. `parts` says how many for one i after the other, in groups that are
    computed at once.
    """

    tokens: Tensor  # [num_rows]
    item_tokens: Tensor  # [num_items]
    pages: Tensor  # [2, num_items, kv_heads * pages_per_chunk], into kv as rows of pages
    mask: Tensor  # [num_items, 1, 1, chunk_len], 0 or _UNSEEN
    parts: list[list[int]]
    workspace: Tensor  # [2 * items at once * kv_heads * pages_per_chunk, block_size * head_dim]


@dataclass(frozen=True, slots=True)
class _Run:
    """One row with several tokens in this step.

    For each chunk that is read: the first of its tokens to compute with it (the earlier ones
    cannot see it), and the mask [1, num_tokens - first, 1, chunk_len], None if all is seen.
    """

    span: Span
    pages: Tensor  # [2, num_chunks, kv_heads * pages_per_chunk]
    chunks: list[tuple[int, Tensor | None]]
    workspace: Tensor  # [2 * kv_heads * pages_per_chunk, block_size * head_dim]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Which chunks of the contexts are read."""

    singles: _Singles | None
    runs: list[_Run]


@dataclass(frozen=True)
class PagedPlan(AttentionPlan):
    """`store_rows` [num_tokens * 2 * kv_heads] places keys and values in kv as rows of heads.

    What is read depends on a layer's window: `readings` has those that layers have asked for.
    """

    store_rows: Tensor
    layout: StepLayout
    dtype: torch.dtype
    readings: dict[int | None, _Reading] = field(default_factory=dict)

    def reading(self, window: int | None) -> _Reading:
        """What is read through a window; None is everything."""
        if window is not None and window >= max(span.context_len for span in self.spans):
            window = None
        if window not in self.readings:
            self.readings[window] = _plan_reading(self.layout, self.dtype, window)
        return self.readings[window]


@dataclass(frozen=True, slots=True)
class _Partial:
    """Attention over a part of the context, not yet normalised (online softmax).

    `maximum` and `total` [batch, queries, 1], `output` [batch, queries, head_dim].
    """

    maximum: Tensor
    total: Tensor
    output: Tensor

    def narrow(self, dim: int, start: int, length: int) -> _Partial:
        return _Partial(
            self.maximum.narrow(dim, start, length),
            self.total.narrow(dim, start, length),
            self.output.narrow(dim, start, length),
        )

    def merge(self, other: _Partial) -> None:
        """Take in the next part of the context. A part that sees nothing changes no bit."""
        maximum = torch.maximum(self.maximum, other.maximum)
        scale = (self.maximum - maximum).exp_()
        other_scale = (other.maximum - maximum).exp_()
        self.total.mul_(scale).add_(other.total * other_scale)
        self.output.mul_(scale).add_(other.output * other_scale)
        self.maximum.copy_(maximum)


def attend(q: Tensor, kv: Tensor, plan: PagedPlan, rule: AttentionRule) -> Tensor:
    """See `Kernels.paged_attention`."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = kv.shape[2]
    grouped = (q * rule.score_scale(head_dim)).view(num_tokens, num_kv_heads, -1, head_dim)
    pages = kv.view(-1, kv.shape[3] * head_dim)
    output = torch.empty_like(grouped)
    reading, soft_cap = plan.reading(rule.window), rule.soft_cap
    if reading.singles is not None:
        attended = _attend_singles(grouped, pages, reading.singles, soft_cap)
        output.index_copy_(0, reading.singles.tokens, attended)
    for run in reading.runs:
        tokens = slice(run.span.first_token, run.span.first_token + run.span.num_tokens)
        output[tokens] = _attend_run(grouped[tokens], pages, run, soft_cap)
    return output.view(num_tokens, num_heads, head_dim)


def _attend_singles(q: Tensor, pages: Tensor, rows: _Singles, soft_cap: float | None) -> Tensor:
    """[num_tokens, kv_heads, group, head_dim] -> [num_rows, kv_heads, group, head_dim]"""
    _, num_kv_heads, group, head_dim = q.shape
    num_rows = rows.tokens.shape[0]
    merged = None
    first = 0
    for widths in rows.parts:
        part = slice(first, first + sum(widths))
        first = part.stop
        queries = _pad_group(q.index_select(0, rows.item_tokens[part]), num_tokens=1)
        keys, values = _gather(pages, rows.pages[:, part], rows.workspace, num_kv_heads, head_dim)
        scores_shape = (sum(widths), num_kv_heads, queries.shape[2], keys.shape[1])
        items = _attend_chunk(
            queries.flatten(0, 1), keys, values, rows.mask[part], scores_shape, soft_cap
        )
        place = 0
        for width in widths:
            chunk = items.narrow(0, place * num_kv_heads, width * num_kv_heads)
            if merged is None:
                merged = chunk  # the first ones of all rows
            else:
                merged.narrow(0, 0, width * num_kv_heads).merge(chunk)
            place += width
    assert merged is not None
    output = (merged.output / merged.total).to(q.dtype)
    return output.view(num_rows, num_kv_heads, -1, head_dim)[:, :, :group]


def _attend_run(q: Tensor, pages: Tensor, run: _Run, soft_cap: float | None) -> Tensor:
    """[tokens, kv_heads, group, head_dim] -> same, over the pages of one row."""
    num_tokens, num_kv_heads, group, head_dim = q.shape
    queries = _pad_group(q, num_tokens).transpose(0, 1)  # [kv_heads, tokens, group, head_dim]
    padded = queries.shape[2]
    merged = None
    for i, (first, mask) in enumerate(run.chunks):
        chunk = run.pages[:, i : i + 1]
        keys, values = _gather(pages, chunk, run.workspace, num_kv_heads, head_dim)
        seeing = queries[:, first:].flatten(1, 2)
        scores_shape = (num_kv_heads, num_tokens - first, padded, keys.shape[1])
        part = _attend_chunk(seeing, keys, values, mask, scores_shape, soft_cap)
        if merged is None:
            merged = part  # of all tokens: those that see nothing of it lose nothing by it
        else:
            merged.narrow(1, first * padded, (num_tokens - first) * padded).merge(part)
    assert merged is not None
    output = (merged.output / merged.total).to(q.dtype)
    return output.view(num_kv_heads, num_tokens, padded, head_dim)[:, :, :group].transpose(0, 1)


def _attend_chunk(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scores_shape: tuple[int, ...],
    soft_cap: float | None,
) -> _Partial:
    """q [batch, queries, head_dim] over keys and values [batch, chunk_len, head_dim].

    `mask` is added to the scores in `scores_shape`.
    """
    scores = _products(q, keys.transpose(1, 2))
    if soft_cap is not None:
        scores = _soft_capped(scores.float(), soft_cap)
    if mask is None:
        scores = scores.float()
    else:
        scores = (scores.view(scores_shape) + mask).view(scores.shape)
    maximum = scores.amax(-1, keepdim=True)
    weights = (scores - maximum).exp_()
    output = _products(weights.to(values.dtype), values).float()
    return _Partial(maximum, weights.sum(-1, keepdim=True), output)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, [batch, rows, n] and [batch, n, columns]. MKL takes a batch of one another way, on
    which a row's bits depend on how many there are."""
    if a.shape[0] > 1 or a.dtype != torch.float32:
        return torch.bmm(a, b)
    return torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]


def _soft_capped(scores: Tensor, cap: float) -> Tensor:
    """cap * tanh(scores / cap), by the exponential: its bits do not depend on the place."""
    return (scores * (2 / cap)).exp_().add_(1).reciprocal_().mul_(-2 * cap).add_(cap)


def _gather(
    pages: Tensor, indices: Tensor, workspace: Tensor, num_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor]:
    """Keys and values, each [chunks * kv_heads, chunk_len, head_dim]; `indices` [2, chunks, n]."""
    gathered = workspace[: indices.numel()]
    torch.index_select(pages, 0, indices.flatten(), out=gathered)
    keys, values = gathered.view(2, indices.shape[1] * num_kv_heads, -1, head_dim)
    return keys, values


def _pad_group(q: Tensor, num_tokens: int) -> Tensor:
    """Fill up [..., group, head_dim] so that a product has at least `_MIN_QUERY_ROWS` rows."""
    missing = math.ceil(_MIN_QUERY_ROWS / num_tokens) - q.shape[-2]
    return F.pad(q, (0, 0, 0, missing)) if missing > 0 and q.dtype == torch.float32 else q


def make_plan(layout: StepLayout, dtype: torch.dtype) -> PagedPlan:
    """See `Kernels.plan`."""
    num_kv_heads, block_size = layout.num_kv_heads, layout.block_size
    block_ids = layout.block_tables[layout.rows, layout.positions // block_size].long()
    heads = torch.arange(2 * num_kv_heads, device=block_ids.device)
    in_heads = block_ids[:, None] * (2 * num_kv_heads) + heads
    store_rows = in_heads * block_size + (layout.positions % block_size)[:, None]
    return PagedPlan(
        positions=layout.positions,
        spans=layout.spans,
        store_rows=store_rows.flatten(),
        layout=layout,
        dtype=dtype,
    )


def _plan_reading(layout: StepLayout, dtype: torch.dtype, window: int | None) -> _Reading:
    singles = [span for span in layout.spans if span.num_tokens == 1]
    runs = [span for span in layout.spans if span.num_tokens > 1]
    return _Reading(
        singles=_plan_singles(layout, singles, dtype, window) if singles else None,
        runs=[_plan_run(layout, span, dtype, window) for span in runs],
    )


def _plan_singles(
    layout: StepLayout, spans: list[Span], dtype: torch.dtype, window: int | None
) -> _Singles:
    device = layout.positions.device
    chunk_len = _chunk_len(layout)
    spans = sorted(spans, key=lambda span: len(_chunks(span, chunk_len, window)), reverse=True)
    chunks = [_chunks(span, chunk_len, window) for span in spans]
    widths = [sum(len(of_row) > i for of_row in chunks) for i in range(len(chunks[0]))]
    # One transfer for all that the host knows: row, token, chunk, visible positions of each item.
    items = torch.tensor(
        [
            (row, spans[row].first_token, chunk, spans[row].context_len - chunk * chunk_len)
            for i, width in enumerate(widths)
            for row in range(width)
            for chunk in [chunks[row][i]]
        ],
        device=device,
    )
    item_rows, item_tokens, item_chunks, item_lens = items.unbind(1)
    rows = torch.tensor([span.row for span in spans], device=device)
    tables = _chunked_tables(layout, rows, max(of_row.stop for of_row in chunks))
    pages = _page_rows(tables[item_rows, item_chunks], layout.num_kv_heads)
    parts: list[list[int]] = []
    for width in widths:
        if not parts or sum(parts[-1]) + width > _CHUNKS_AT_ONCE:
            parts.append([])
        parts[-1].append(width)
    positions = torch.arange(chunk_len, device=device)
    unseen = positions >= item_lens[:, None]
    if window is not None:
        unseen |= positions < item_lens[:, None] - window
    return _Singles(
        tokens=item_tokens[: len(spans)],
        item_tokens=item_tokens,
        pages=pages,
        mask=_additive(unseen)[:, None, None],
        parts=parts,
        workspace=_workspace(layout, pages, max(map(sum, parts)), dtype),
    )


def _plan_run(layout: StepLayout, span: Span, dtype: torch.dtype, window: int | None) -> _Run:
    device = layout.positions.device
    chunk_len = _chunk_len(layout)
    read = _chunks(span, chunk_len, window)
    rows = torch.tensor([span.row], device=device)
    tables = _chunked_tables(layout, rows, read.stop)[0, read.start :]
    pages = _page_rows(tables, layout.num_kv_heads)
    group = max(
        layout.num_heads // layout.num_kv_heads, math.ceil(_MIN_QUERY_ROWS / span.num_tokens)
    )
    last_first = span.num_tokens - math.ceil(_MIN_QUERY_ROWS / group)
    positions = torch.arange(chunk_len, device=device)
    chunks: list[tuple[int, Tensor | None]] = []
    for chunk_start in range(read.start * chunk_len, read.stop * chunk_len, chunk_len):
        first = min(max(0, chunk_start - span.start), last_first)
        is_past = span.start + first >= chunk_start + chunk_len - 1
        if is_past and (window is None or chunk_start > span.context_len - 1 - window):
            chunks.append((first, None))
            continue
        queries = torch.arange(span.start + first, span.context_len, device=device)[:, None]
        keys = positions + chunk_start
        unseen = keys > queries
        if window is not None:
            unseen |= keys <= queries - window
        chunks.append((first, _additive(unseen)[None, :, None]))
    return _Run(span, pages, chunks, _workspace(layout, pages, 1, dtype))


def _chunks(span: Span, chunk_len: int, window: int | None) -> range:
    """The chunks of which the row's tokens see anything."""
    first_seen = 0 if window is None else max(0, span.start + 1 - window)
    return range(first_seen // chunk_len, math.ceil(span.context_len / chunk_len))


def _chunk_len(layout: StepLayout) -> int:
    return max(1, _CHUNK_LEN // layout.block_size) * layout.block_size


def _chunked_tables(layout: StepLayout, rows: Tensor, num_chunks: int) -> Tensor:
    """The pages of `rows` as [rows, num_chunks, pages_per_chunk], filled up with the blank one."""
    pages_per_chunk = _chunk_len(layout) // layout.block_size
    num_pages = num_chunks * pages_per_chunk
    tables = layout.block_tables[:, :num_pages].index_select(0, rows).long()
    tables = F.pad(tables, (0, num_pages - tables.shape[1]), value=layout.blank_block)
    return tables.view(-1, num_chunks, pages_per_chunk)


def _page_rows(block_ids: Tensor, num_kv_heads: int) -> Tensor:
    """[items, pages] -> [2, items, kv_heads * pages], rows of kv by (page, head)."""
    heads = torch.arange(2 * num_kv_heads, device=block_ids.device).view(2, 1, num_kv_heads, 1)
    return (block_ids[:, None] * (2 * num_kv_heads) + heads).flatten(2)


def _additive(unseen: Tensor) -> Tensor:
    return torch.zeros(unseen.shape, device=unseen.device).masked_fill_(unseen, _UNSEEN)


def _workspace(layout: StepLayout, pages: Tensor, num_chunks: int, dtype: torch.dtype) -> Tensor:
    """For the keys and values of so many chunks of those that `pages` names."""
    width = layout.block_size * layout.head_dim
    return torch.empty(2 * num_chunks * pages.shape[2], width, dtype=dtype, device=pages.device)
