"""Causal attention over pages, for every mix of prompt chunks and single tokens.

One kernel, with an online softmax (Milakov and Gimelshein, 2018) over the context as FlashAttention
has it (Dao et al., 2022); and one that merges what the splits of a context have seen. `plan.py`
says which program computes what. Nothing past a token's own context is read from pages, so that
whatever lies there does not matter. Scores, softmax and sums are in float32.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from engine.attention import AttentionRule
from engine.kernels.triton.plan import MAX_SPLITS, Launch, TritonPlan

# The score of a position that must not be seen: its weight is exactly 0 and, unlike with -inf,
# nothing is NaN in a split where a query sees nothing at all.
_UNSEEN = tl.constexpr(-1e30)
_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _split_len(
    context_len: tl.tensor, num_splits: tl.tensor, BLOCK_POSITIONS: tl.constexpr
) -> tl.tensor:
    """Positions of each split: those of a row are equal, whatever the other rows are."""
    equal = (context_len + num_splits - 1) // num_splits
    return (tl.maximum(equal, 1) + BLOCK_POSITIONS - 1) // BLOCK_POSITIONS * BLOCK_POSITIONS


@triton.jit
def _first_read(start: tl.tensor, WINDOW: tl.constexpr, BLOCK_POSITIONS: tl.constexpr) -> tl.tensor:
    """Where reading begins: at a multiple of BLOCK_POSITIONS, for a tile from position `start`."""
    return tl.maximum(start + 1 - WINDOW, 0) // BLOCK_POSITIONS * BLOCK_POSITIONS


# Neither a number of splits nor the place of a small tensor is worth a compilation of its own.
@triton.jit(
    do_not_specialize=["num_splits"],
    do_not_specialize_on_alignment=["rows", "positions", "tiles"],
)
def _attend(
    q: tl.tensor,
    kv: tl.tensor,
    out: tl.tensor,
    partial_out: tl.tensor,
    partial_lse: tl.tensor,
    rows: tl.tensor,
    positions: tl.tensor,
    block_tables: tl.tensor,
    tiles: tl.tensor,
    q_stride: tl.tensor,
    kv_stride: tl.tensor,
    table_stride: tl.tensor,
    num_splits: tl.tensor,
    scale: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    IS_TILED: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    OPERAND: tl.constexpr,
) -> None:
    """One tile, KV head and split. `scale` is that of scores times log2(e), as exp2 is used.
    SOFT_CAP is times log2(e) too; it and WINDOW are 0 where there is none.

    Products take operands of type OPERAND: the tensors' own, but for the interpreter, which cannot
    multiply bfloat16.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    if IS_TILED:
        first_token = tl.load(tiles + 2 * tile)
        num_tokens = tl.load(tiles + 2 * tile + 1)
    else:
        first_token = tile
        num_tokens = 1
    start = tl.load(positions + first_token).to(tl.int32)
    context_len = start + num_tokens  # 0 for padding, which is at position -1
    begin = 0
    end = context_len
    if WINDOW > 0:
        begin = _first_read(start, WINDOW, BLOCK_POSITIONS)
    if IS_SPLIT:
        split_len = _split_len(context_len - begin, num_splits, BLOCK_POSITIONS)
        begin += split * split_len
        end = tl.minimum(begin + split_len, context_len)

    # The rows of the tile: for each token the query heads of this KV head.
    line = tl.arange(0, BLOCK_ROWS)
    token = line // GROUP
    head = kv_head * GROUP + line % GROUP
    column = tl.arange(0, BLOCK_DIM)
    in_head = column < HEAD_DIM
    written = (token < num_tokens)[:, None] & in_head[None, :]
    query_at = (first_token + token).to(tl.int64) * q_stride + head * HEAD_DIM
    queries = tl.load(q + query_at[:, None] + column[None, :], mask=written, other=0.0)
    queries = queries.to(OPERAND)
    last_seen = start + token

    table = block_tables + tl.load(rows + first_token) * table_stride
    keys = kv + kv_head * (BLOCK_SIZE * HEAD_DIM)
    values = keys + NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM
    maximum = tl.full([BLOCK_ROWS], _UNSEEN, tl.float32)
    total = tl.full([BLOCK_ROWS], 0.0, tl.float32)
    output = tl.full([BLOCK_ROWS, BLOCK_DIM], 0.0, tl.float32)
    for block_start in range(begin, end, BLOCK_POSITIONS):
        position = block_start + tl.arange(0, BLOCK_POSITIONS)
        inside = position < end
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        line_at = block * kv_stride + position % BLOCK_SIZE * HEAD_DIM
        place = line_at[:, None] + column[None, :]
        loaded = inside[:, None]
        if BLOCK_DIM != HEAD_DIM:
            loaded = loaded & in_head[None, :]
        key = tl.load(keys + place, mask=loaded, other=0.0)
        scores = tl.dot(queries, tl.trans(key.to(OPERAND)), input_precision="ieee") * scale
        if SOFT_CAP > 0:  # cap * tanh(score / cap)
            scores = SOFT_CAP - 2 * SOFT_CAP / (tl.exp2(scores * (2 * _LOG2_E / SOFT_CAP)) + 1)
        seen = inside[None, :] & (position[None, :] <= last_seen[:, None])
        if WINDOW > 0:
            seen = seen & (position[None, :] > last_seen[:, None] - WINDOW)
        scores = tl.where(seen, scores, _UNSEEN)
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        total = total * shrink + tl.sum(weights, 1)
        value = tl.load(values + place, mask=loaded, other=0.0)
        rounded = weights.to(value.dtype).to(OPERAND)
        output = output * shrink[:, None]
        output = tl.dot(rounded, value.to(OPERAND), output, input_precision="ieee")
        maximum = new_maximum

    total = tl.where(total > 0.0, total, 1.0)  # where there was no context
    output = output / total[:, None]
    if IS_SPLIT:
        written = written & (begin < context_len)
        part = ((tile * NUM_KV_HEADS + kv_head).to(tl.int64) * num_splits + split) * BLOCK_ROWS
        tl.store(partial_out + (part + line)[:, None] * HEAD_DIM + column, output, mask=written)
        is_there = (token < num_tokens) & (begin < context_len)
        tl.store(partial_lse + part + line, maximum + tl.log2(total), mask=is_there)
    else:
        out_at = (first_token + token).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
        tl.store(out + out_at[:, None] * HEAD_DIM + column[None, :], output, mask=written)


@triton.jit(do_not_specialize=["num_splits"], do_not_specialize_on_alignment=["positions", "tiles"])
def _merge(
    out: tl.tensor,
    partial_out: tl.tensor,
    partial_lse: tl.tensor,
    positions: tl.tensor,
    tiles: tl.tensor,
    num_splits: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    IS_TILED: tl.constexpr,
    WINDOW: tl.constexpr,
) -> None:
    """The splits of one token and query head, in one sum: TILE_TOKENS programs to a tile."""
    tile = tl.program_id(0) // TILE_TOKENS
    token = tl.program_id(0) % TILE_TOKENS
    head = tl.program_id(1)
    if IS_TILED:
        first_token = tl.load(tiles + 2 * tile)
        num_tokens = tl.load(tiles + 2 * tile + 1)
    else:
        first_token = tile
        num_tokens = 1
    start = tl.load(positions + first_token).to(tl.int32)
    num_read = start + num_tokens
    if WINDOW > 0:
        num_read -= _first_read(start, WINDOW, BLOCK_POSITIONS)
    split = tl.arange(0, BLOCK_SPLITS)
    is_there = split * _split_len(num_read, num_splits, BLOCK_POSITIONS) < num_read
    is_there = is_there & (split < num_splits) & (token < num_tokens)
    column = tl.arange(0, BLOCK_DIM)
    in_head = column < HEAD_DIM

    part = ((tile * NUM_KV_HEADS + head // GROUP).to(tl.int64) * num_splits + split) * BLOCK_ROWS
    line = part + token * GROUP + head % GROUP
    lse = tl.load(partial_lse + line, mask=is_there, other=_UNSEEN)
    weights = tl.where(is_there, tl.exp2(lse - tl.max(lse, 0)), 0.0)
    total = tl.sum(weights, 0)
    total = tl.where(total > 0.0, total, 1.0)  # where there was no context
    outputs = tl.load(
        partial_out + line[:, None] * HEAD_DIM + column[None, :],
        mask=is_there[:, None] & in_head[None, :],
        other=0.0,
    )
    merged = tl.sum(outputs * weights[:, None], 0) / total
    out_at = (first_token + token).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
    tl.store(out + out_at * HEAD_DIM + column, merged, mask=in_head & (token < num_tokens))


def paged_attention(
    q: Tensor, kv: Tensor, plan: TritonPlan, rule: AttentionRule, operand: tl.dtype
) -> Tensor:
    """See `Kernels.paged_attention`; `operand` is the type that products take."""
    assert q.stride(2) == 1 and q.stride(1) == q.shape[2] and kv[0].is_contiguous()
    for launch in plan.launches:
        _run(q, kv, plan, launch, rule, operand)
    return plan.attended


def _num_splits(launch: Launch, tile_tokens: int, window: int) -> int:
    """No more of the launch's splits than blocks of positions that a tile's windows can touch."""
    if not window:
        return launch.num_splits
    num_positions = launch.shape.num_positions
    return min(launch.num_splits, triton.cdiv(window + tile_tokens - 1, num_positions) + 1)


def _run(
    q: Tensor,
    kv: Tensor,
    plan: TritonPlan,
    launch: Launch,
    rule: AttentionRule,
    operand: tl.dtype,
) -> None:
    layout, shape = plan.layout, launch.shape
    head_dim = layout.head_dim
    group = layout.num_heads // layout.num_kv_heads
    tile_tokens = 1 if launch.tiles is None else shape.num_tokens(group)
    window = rule.window or 0
    num_splits = _num_splits(launch, tile_tokens, window)
    tiles = layout.rows if launch.tiles is None else launch.tiles  # not read where there are none
    block_dim = max(16, triton.next_power_of_2(head_dim))
    _attend[(launch.num_tiles, layout.num_kv_heads, num_splits)](
        q,
        kv,
        plan.attended,
        launch.partial_out,
        launch.partial_lse,
        layout.rows,
        layout.positions,
        layout.block_tables,
        tiles,
        q.stride(0),
        kv.stride(0),
        layout.block_tables.stride(0),
        num_splits,
        rule.score_scale(head_dim) * _LOG2_E.value,
        NUM_KV_HEADS=layout.num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=layout.block_size,
        BLOCK_ROWS=shape.num_rows,
        BLOCK_POSITIONS=shape.num_positions,
        BLOCK_DIM=block_dim,
        IS_TILED=launch.tiles is not None,
        IS_SPLIT=num_splits > 1,
        WINDOW=window,
        SOFT_CAP=(rule.soft_cap or 0.0) * _LOG2_E.value,
        OPERAND=operand,
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
    )
    if num_splits == 1:
        return
    _merge[(launch.num_tiles * tile_tokens, layout.num_heads)](
        plan.attended,
        launch.partial_out,
        launch.partial_lse,
        layout.positions,
        tiles,
        num_splits,
        NUM_KV_HEADS=layout.num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_ROWS=shape.num_rows,
        BLOCK_POSITIONS=shape.num_positions,
        BLOCK_DIM=block_dim,
        BLOCK_SPLITS=MAX_SPLITS,
        TILE_TOKENS=tile_tokens,
        IS_TILED=launch.tiles is not None,
        WINDOW=window,
        num_warps=4,
    )
