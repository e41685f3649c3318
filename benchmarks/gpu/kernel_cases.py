"""What the kernels are timed on: sizes of Llama-3.1-8B and Qwen3-0.6B, decoding and prompts.

Each case knows what it must read, write and multiply at least, and checks itself against float64 on
the very memory that it is timed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import exact
from benchmarks.gpu.check_kernels import Error, Sizes, distances, random_angles, random_layout
from engine.attention import Span, StepLayout
from engine.kernels.base import HeadNorms, Kernels

_EPS = 1e-6
_BLOCK_SIZE = 16
# Tokens of a step whose attention is computed in float64: all of a large prompt would not fit.
_NUM_CHECKED = 48


@dataclass(frozen=True)
class Made:
    """A case on memory of its own. `run` may overwrite what it reads; `error` runs it once."""

    run: Callable[[], object]
    error: Callable[[], Error]


@dataclass(frozen=True)
class Case:
    """`num_bytes` must be read or written, `num_flops` multiplied and added; 0: next to none."""

    name: str
    num_bytes: float
    num_flops: float
    make: Callable[[], Made]


@dataclass(frozen=True)
class Layer:
    """Of a model. `steps` are what its attention is tried on: (start, num_tokens) of each row."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    has_norms: bool
    num_tokens: tuple[int, ...]
    steps: dict[str, list[tuple[int, int]]]

    def heads(self) -> str:
        return f"{self.num_heads}/{self.num_kv_heads}/{self.head_dim}"


# What the target is told of: 64 streams at a context of 2k.
TARGET = "decode 64 x 2048"
_LLAMA = {
    "decode 1 x 2048": [(2047, 1)],
    "decode 1 x 16384": [(16383, 1)],
    "decode 8 x 2048": [(2047, 1)] * 8,
    TARGET: [(2047, 1)] * 64,
    "decode 64 x 64 to 4096": [(64 * i + 63, 1) for i in range(64)],
    "decode 256 x 1024": [(1023, 1)] * 256,
    "prompt 8192": [(0, 8192)],
    "prompts 8 x 1024": [(0, 1024)] * 8,
    "chunk 2048 after 6144": [(6144, 2048)],
    "prompt 2048 beside 64 x 2048": [(0, 2048), *[(2047, 1)] * 64],
}
_QWEN = {name: _LLAMA[name] for name in ("decode 1 x 2048", TARGET, "prompts 8 x 1024")}
_QUICK = {"decode 3 x 40": [(39, 1)] * 3, "prompt 33 beside 2 x 40": [(0, 33), *[(39, 1)] * 2]}

LAYERS = {
    "llama-3.1-8b": Layer(32, 8, 128, 4096, 14336, False, (64, 8192), _LLAMA),
    "qwen3-0.6b": Layer(16, 8, 128, 1024, 3072, True, (64, 8192), _QWEN),
}
QUICK_LAYERS = {"tiny": Layer(4, 2, 16, 64, 96, True, (3,), _QUICK)}


class CaseMaker:
    """All cases of a layer. Its pages lie scattered over a pool that all steps share."""

    def __init__(
        self, kernels: Kernels, device: torch.device, dtype: torch.dtype, pool_numbers: int
    ) -> None:
        """`pool_numbers`: how many keys and values the pool holds, if no step needs more. With
        2^31 and more, offsets do not fit into 32 bits."""
        self._kernels = kernels
        self._device = device
        self._dtype = dtype
        self._pool_numbers = pool_numbers
        self._pools: dict[tuple[int, ...], Tensor] = {}
        self._generator = torch.Generator(device).manual_seed(17)
        self._host_generator = torch.Generator().manual_seed(19)

    def cases(self, layer: Layer) -> Iterator[Case]:
        size = self._dtype.itemsize
        for n in layer.num_tokens:
            hidden, inner = n * layer.hidden * size, n * layer.inner * size
            yield self._case(f"rms_norm {n} x {layer.hidden}", 2 * hidden, self._rms_norm, n, layer)
            name = f"add_rms_norm {n} x {layer.hidden}"
            yield self._case(name, 4 * hidden, self._add_rms_norm, n, layer)
            name = f"silu_mul {n} x {layer.inner}"
            yield self._case(name, 3 * inner, self._silu_mul, n, layer)
            per_token = 2 * (layer.num_heads + 2 * layer.num_kv_heads) * layer.head_dim * size
            angles = layer.head_dim * 4  # a cosine and a sine for each pair
            normed = "head norms, " if layer.has_norms else ""
            name = f"{normed}rotary, store {n} x {layer.heads()}"
            yield self._case(name, n * (per_token + angles), self._rotary, n, layer)
        for name, spans in layer.steps.items():
            num_bytes, num_flops = attention_cost(layer, spans, size)
            name = f"attention {layer.heads()}, {name}"
            yield Case(name, num_bytes, num_flops, partial(self._attention, layer, spans))

    def _case(
        self,
        name: str,
        num_bytes: int,
        make: Callable[[int, Layer], Made],
        num_tokens: int,
        layer: Layer,
    ) -> Case:
        return Case(name, num_bytes, 0.0, partial(make, num_tokens, layer))

    def _rms_norm(self, num_tokens: int, layer: Layer) -> Made:
        x, weight = self._random(num_tokens, layer.hidden), self._random(layer.hidden)
        return self._made(
            lambda: self._kernels.rms_norm(x, weight, _EPS), lambda: exact.rms_norm(x, weight, _EPS)
        )

    def _add_rms_norm(self, num_tokens: int, layer: Layer) -> Made:
        x, residual = (self._random(num_tokens, layer.hidden) for _ in range(2))
        weight = self._random(layer.hidden)
        return self._made(
            lambda: self._kernels.add_rms_norm(x, residual, weight, _EPS)[0],
            lambda: exact.rms_norm(x.double() + residual.double(), weight, _EPS),
        )

    def _silu_mul(self, num_tokens: int, layer: Layer) -> Made:
        gate_up = self._random(num_tokens, 2 * layer.inner)
        return self._made(lambda: self._kernels.silu_mul(gate_up), lambda: exact.silu_mul(gate_up))

    def _rotary(self, num_tokens: int, layer: Layer) -> Made:
        """Prompts of 1024 tokens, or single tokens where there are fewer. Checked are queries as
        returned, and keys and values as stored."""
        prompts = [(0, 1024)] * (num_tokens // 1024)
        layout, kv = self._place(layer, prompts or [(7 * i % 500, 1) for i in range(num_tokens)])
        plan = self._kernels.plan(layout)
        num_kv_heads, num_rotated = layer.num_kv_heads, layer.num_heads + layer.num_kv_heads
        qkv = self._random(num_tokens, num_rotated + num_kv_heads, layer.head_dim)
        cos_sin = random_angles(layout, self._generator)
        norms = None
        if layer.has_norms:
            norms = HeadNorms(self._random(layer.head_dim), self._random(layer.head_dim), _EPS)

        def run() -> Tensor:
            return self._kernels.rotary_store_kv(qkv, cos_sin, kv, plan, norms)

        def result() -> Tensor:
            q = run()
            return torch.cat((q, exact.stored(layout, kv).flatten(1, 2)), dim=1)

        def want() -> Tensor:
            rotated = exact.rotate(exact.norm_heads(qkv, num_kv_heads, norms), cos_sin)
            return torch.cat((rotated, qkv[:, num_rotated:].double()), dim=1)

        return self._made(run, want, result)

    def _attention(self, layer: Layer, spans: list[tuple[int, int]]) -> Made:
        layout, kv = self._place(layer, spans)
        plan = self._kernels.plan(layout)
        q = self._random(len(layout.rows), layer.num_heads, layer.head_dim)
        order = torch.randperm(len(layout.rows), generator=self._host_generator)
        checked = order[:_NUM_CHECKED].to(self._device)
        rows, positions = layout.rows[checked].tolist(), layout.positions[checked].tolist()
        alone = [
            Span(row, token, 1, position)
            for row, token, position in zip(rows, checked.tolist(), positions, strict=True)
        ]

        def run() -> Tensor:
            return self._kernels.paged_attention(q, kv, plan)

        return self._made(
            run,
            lambda: exact.attention(q, kv, replace(layout, spans=alone))[checked],
            lambda: run()[checked],
        )

    def _made(
        self,
        run: Callable[[], Tensor],
        want: Callable[[], Tensor],
        result: Callable[[], Tensor] | None = None,
    ) -> Made:
        def error() -> Error:
            wanted = want()  # first: it reads what `run` overwrites
            largest, norm = distances(wanted, (result or run)())
            return Error("", largest, norm, 0.0, 0.0, torch.finfo(self._dtype).eps)

        return Made(run, error)

    def _place(self, layer: Layer, spans: list[tuple[int, int]]) -> tuple[StepLayout, Tensor]:
        """Rows on pages of nobody else in this step, anywhere in the pool."""
        sizes = Sizes(
            layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.hidden, _BLOCK_SIZE, {}
        )
        layout, num_blocks = random_layout(spans, sizes, self._device)
        pool = self._pool((2, layer.num_kv_heads, _BLOCK_SIZE, layer.head_dim), num_blocks + 1)
        places = torch.randperm(len(pool), generator=self._host_generator)[: num_blocks + 1]
        tables = places.to(self._device, torch.int32)[layout.block_tables.long()]
        blank = int(places[layout.blank_block])
        pool[blank] = 0
        return replace(layout, block_tables=tables, blank_block=blank), pool

    def _pool(self, page: tuple[int, ...], num_blocks: int) -> Tensor:
        wanted = max(num_blocks, self._pool_numbers // torch.Size(page).numel())
        if page not in self._pools or len(self._pools[page]) < num_blocks:
            self._pools[page] = self._random(wanted, *page)
        return self._pools[page]

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device, dtype=self._dtype)


def attention_cost(
    layer: Layer, spans: list[tuple[int, int]], item_bytes: int
) -> tuple[float, float]:
    """Bytes: each row's keys and values once, queries and results. Operations: two products of what
    each token sees, a multiplication and an addition each."""
    positions = sum(start + n for start, n in spans)
    tokens = sum(n for _, n in spans)
    seen = sum(n * start + n * (n + 1) // 2 for start, n in spans)
    lines = 2 * positions * layer.num_kv_heads + 2 * tokens * layer.num_heads
    return lines * layer.head_dim * item_bytes, 4.0 * seen * layer.num_heads * layer.head_dim
