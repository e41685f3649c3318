"""Every kernel of a set against float64, on random ragged batches over scattered pages.

A result is right when it is as near to the exact one as the number format allows, or as near as
the reference set is: outputs are compared by their largest error and by the norm of all errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.gpu import exact
from engine.attention import Span, StepLayout
from engine.kernels.base import HeadNorms, Kernels

_EPS = 1e-6
# In units of the format's epsilon: of the largest exact number, and of the norm.
_MAX_ERROR = 4.0
_MAX_NORM = 2.0


@dataclass(frozen=True)
class Sizes:
    """Of a model's layer, and of the batches to try: (start, num_tokens) of each row."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    block_size: int
    batches: dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Error:
    """How far one output is off. `reference_*`: the same of the reference set."""

    operation: str
    largest: float
    norm: float
    reference_largest: float
    reference_norm: float
    epsilon: float

    @property
    def is_right(self) -> bool:
        # Written so that NaN is wrong.
        return self.largest <= max(
            _MAX_ERROR * self.epsilon, 2 * self.reference_largest
        ) and self.norm <= max(_MAX_NORM * self.epsilon, 2 * self.reference_norm)


def make_sizes(num_heads: int, num_kv_heads: int, head_dim: int, is_quick: bool) -> Sizes:
    """Decodes, prompts, prompts in chunks, and all of them mixed."""
    if is_quick:
        batches = {
            "decode": [(0, 1), (15, 1), (16, 1), (70, 1)],
            "mixed": [(0, 37), (33, 1), (16, 20), (64, 1)],
        }
        return Sizes(num_heads, num_kv_heads, head_dim, 64, 16, batches)
    batches = {
        "one decode, long": [(8191, 1)],
        "decode": [(37 * i % 2048, 1) for i in range(64)],
        "decode, 256 rows": [(97 * i % 1024, 1) for i in range(256)],
        "prompts": [(0, 1), (0, 15), (0, 16), (0, 17), (0, 700)],
        "chunks": [(16, 130), (512, 512), (1000, 33)],
        "mixed": [(0, 300), (511, 1), (512, 64), (2047, 1), (5, 1), (640, 129)],
    }
    return Sizes(num_heads, num_kv_heads, head_dim, num_heads * head_dim, 16, batches)


def check_kernels(
    kernels: Kernels, reference: Kernels, sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> Iterator[Error]:
    """All operations; attention for each of the batches."""
    generator = torch.Generator(device).manual_seed(11)
    epsilon = torch.finfo(dtype).eps

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    def error(operation: str, want: Tensor, got: Tensor, reference_got: Tensor) -> Error:
        return Error(operation, *distances(want, got), *distances(want, reference_got), epsilon)

    hidden = sizes.hidden
    weight = random(hidden)
    for num_rows in (1, 7, 129):
        x, residual = random(num_rows, hidden), random(num_rows, hidden)
        got, ref = (k.rms_norm(x.clone(), weight, _EPS) for k in (kernels, reference))
        yield error(f"rms_norm {num_rows}", exact.rms_norm(x, weight, _EPS), got, ref)
        pairs = [
            k.add_rms_norm(x.clone(), residual.clone(), weight, _EPS) for k in (kernels, reference)
        ]
        total = x.double() + residual.double()
        yield error(f"add_rms_norm {num_rows}, sum", total, pairs[0][1], pairs[1][1])
        normed = exact.rms_norm(total, weight, _EPS)
        yield error(f"add_rms_norm {num_rows}", normed, pairs[0][0], pairs[1][0])
        gate_up = random(num_rows, 2 * hidden)
        # A result may be overwritten by the next call.
        got, ref = (k.silu_mul(gate_up.clone()).clone() for k in (kernels, reference))
        yield error(f"silu_mul {num_rows}", exact.silu_mul(gate_up), got, ref)
    # Heads are normed within qkv: a part of each token's row.
    qkv = random(9, sizes.num_heads + 2 * sizes.num_kv_heads, sizes.head_dim)
    heads, head_weight = qkv[:, : sizes.num_heads], random(sizes.head_dim)
    got, ref = (k.rms_norm(heads, head_weight, _EPS) for k in (kernels, reference))
    yield error("rms_norm of heads", exact.rms_norm(heads, head_weight, _EPS), got, ref)
    matrix, bias = random(3 * hidden // 2, hidden), random(3 * hidden // 2)
    x = random(33, hidden)
    for given in (None, bias):
        got, ref = (k.pack_linear(matrix.clone(), given)(x) for k in (kernels, reference))
        name = "linear" if given is None else "linear with bias"
        yield error(name, exact.linear(x, matrix, given), got, ref)
    ids = torch.randint(len(matrix), (17,), generator=generator, device=device)
    got, ref = (k.pack_embedding(matrix.clone())(ids) for k in (kernels, reference))
    yield error("embedding", matrix[ids].double(), got, ref)

    for name, spans in sizes.batches.items():
        layout, num_blocks = random_layout(spans, sizes, device)
        kv = random(num_blocks + 1, 2, sizes.num_kv_heads, sizes.block_size, sizes.head_dim)
        kv[layout.blank_block] = 0
        num_tokens = len(layout.positions)
        qkv = random(num_tokens, sizes.num_heads + 2 * sizes.num_kv_heads, sizes.head_dim)
        cos_sin = random_angles(layout, generator)
        rotated = exact.rotate(qkv[:, : sizes.num_heads + sizes.num_kv_heads], cos_sin)
        values = qkv[:, sizes.num_heads + sizes.num_kv_heads :].double()
        want_q, want_k = rotated[:, : sizes.num_heads], rotated[:, sizes.num_heads :]
        outputs = []
        for k in (kernels, reference):
            pages, plan = kv.clone(), k.plan(layout)
            q = k.rotary_store_kv(qkv.clone(), cos_sin, pages, plan).clone()
            # Over the same queries and pages as the exact one: roundings must not add up.
            attended = k.paged_attention(want_q.to(dtype), pages, plan).clone()
            outputs.append((q, pages, attended))
        (q, pages, attended), (ref_q, ref_pages, ref_attended) = outputs
        yield error(f"rotary, {name}", want_q, q, ref_q)
        want = torch.stack([want_k, values], dim=1)
        got, ref = exact.stored(layout, pages), exact.stored(layout, ref_pages)
        yield error(f"store, {name}", want, got, ref)
        yield error(f"pages elsewhere, {name}", *_elsewhere(layout, kv, pages, ref_pages))
        want = exact.attention(want_q.to(dtype), pages, layout)
        ref_error = distances(exact.attention(want_q.to(dtype), ref_pages, layout), ref_attended)
        yield replace(
            error(f"attention, {name}", want, attended, attended),
            reference_largest=ref_error[0],
            reference_norm=ref_error[1],
        )

        norms = HeadNorms(random(sizes.head_dim), random(sizes.head_dim), _EPS)
        wanted = exact.rotate(exact.norm_heads(qkv, sizes.num_kv_heads, norms), cos_sin)
        found = []
        for k in (kernels, reference):
            pages = kv.clone()
            q = k.rotary_store_kv(qkv.clone(), cos_sin, pages, k.plan(layout), norms)
            found.append(torch.cat((q, exact.stored(layout, pages)[:, 0]), dim=1))
        yield error(f"rotary of normed heads, {name}", wanted, *found)


def random_layout(
    spans: list[tuple[int, int]], sizes: Sizes, device: torch.device
) -> tuple[StepLayout, int]:
    """Rows of (start, num_tokens) on scattered pages, in no order of their tables; the number of
    pages."""
    counts = [-(-(start + n) // sizes.block_size) for start, n in spans]
    generator = torch.Generator().manual_seed(5)
    order = torch.randperm(sum(counts) + 3, generator=generator).tolist()
    blank = len(order)
    tables = torch.full((len(spans) + 2, max(counts) + 2), blank, dtype=torch.int32)
    rows = torch.randperm(len(spans) + 2, generator=generator).tolist()[: len(spans)]
    placed, first = [], 0
    for row, count, (start, num_tokens) in zip(rows, counts, spans, strict=True):
        tables[row, :count] = torch.tensor([order.pop() for _ in range(count)])
        placed.append(Span(row, first, num_tokens, start))
        first += num_tokens
    layout = StepLayout(
        spans=placed,
        rows=torch.cat([torch.full((s.num_tokens,), s.row) for s in placed]).to(device),
        positions=torch.cat([torch.arange(s.start, s.context_len) for s in placed]).to(device),
        block_tables=tables.to(device),
        blank_block=blank,
        block_size=sizes.block_size,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
    )
    return layout, blank


def random_angles(layout: StepLayout, generator: torch.Generator) -> Tensor:
    """[num_tokens, 2, head_dim] float32: (cos, cos) and (-sin, sin)."""
    shape = (len(layout.positions), layout.head_dim // 2)
    angles = 6.3 * torch.rand(shape, generator=generator, device=layout.positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos, -sin, sin), dim=-1).view(shape[0], 2, -1)


def _elsewhere(
    layout: StepLayout, before: Tensor, pages: Tensor, reference_pages: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(want, got, reference) of all that the step must not touch: the rest is blanked out."""
    blocks = layout.block_tables[layout.rows, layout.positions // layout.block_size].long()
    result = []
    for tensor in (before, pages, reference_pages):
        copied = tensor.clone()
        copied[blocks, :, :, layout.positions % layout.block_size] = 0
        result.append(copied)
    return result[0].double(), result[1], result[2]


def distances(want: Tensor, got: Tensor) -> tuple[float, float]:
    """Largest error over the largest number wanted; norm of the errors over the norm."""
    assert got.shape == want.shape
    off = got.double() - want
    largest = off.abs().max() / want.abs().max()
    return float(largest), float(off.norm() / want.norm())
