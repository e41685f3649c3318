"""The kernels in C++: this file makes their arguments. See `Kernels` for what each does.

What is the same for all layers is written down once per step, in `Step`; results that live only
until the next call of their kind have one buffer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_void_p, pointer
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from engine.attention import CAUSAL, AttentionPlan, AttentionRule, StepLayout
from engine.checkpoint.grouped import GROUP_SIZE, GroupedWeight
from engine.kernels.base import Embedding, FusedLayers, HeadNorms, LayerParts, Linear
from engine.kernels.cpu.build import NATIVE, load_library
from engine.kernels.cpu.decoder import DecoderLayers
from engine.kernels.cpu.quantized import GroupedTable, QuantizedLinear, QuantizedProducts
from engine.kernels.cpu.rule import Rule, native_rule
from engine.kernels.head_norms import norm_heads
from engine.kernels.linear import PackedLinear, Table

# Query rows that are attended together, so that each key and value is unpacked once for all.
_TILE_ROWS = 48


class _Step(ctypes.Structure):
    """`Step` of step.h."""

    _fields_ = (
        ("rows", c_void_p),
        ("positions", c_void_p),
        ("block_tables", c_void_p),
        ("tiles", POINTER(c_int32)),
        ("num_tokens", c_int32),
        ("num_tiles", c_int32),
        ("max_blocks", c_int32),
        ("block_size", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("num_threads", c_int32),
    )


@dataclass(frozen=True)
class CpuPlan(AttentionPlan):
    """`step` points to what C++ reads; `layout` keeps that memory alive."""

    layout: StepLayout
    step: Any
    attended: Tensor  # [num_tokens, heads, head_dim], every layer's result in turn


class CpuKernels:
    """See `Kernels` for the contract of each method."""

    def __init__(self, dtype: torch.dtype, cache_dir: Path, instruction_set: str = NATIVE) -> None:
        """`instruction_set` as the compiler's -march= has it. Raises BuildError."""
        library = load_library(cache_dir, instruction_set)
        self.dtype = dtype
        self._library = library
        self.products = QuantizedProducts(library)
        self._packed: set[str] = set()
        self._num_threads = torch.get_num_threads()
        self._activated = torch.empty(0, dtype=dtype)
        library.instruction_set.restype = c_char_p
        self._instruction_set = library.instruction_set().decode()

        def function(name: str, *argument_types: Any) -> Any:
            found = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
            found.argtypes = argument_types
            found.restype = None
            return found

        address = c_void_p
        norm = (address, address, address, address, c_int64, c_int32, c_float, c_int32)
        # By the number format of the weight.
        self._norms = {
            dtype: function("norm", *norm),
            torch.float32: function("norm_by_float32", *norm),
        }
        self._add_layer_norm = function(
            "add_layer_norm", *([address] * 4), c_int64, c_int32, c_float, c_int32
        )
        activation = (address, address, c_int64, c_int32, c_int32)
        self._silu_mul = function("silu_mul", *activation)
        self._gelu_mul = function("gelu_mul", *activation)
        self._gelu = function("gelu", *activation)
        step = POINTER(_Step)
        self._rotary_store_kv = function("rotary_store_kv", step, address, address, address)
        self._store_kv = function("store_kv", step, address, address)
        self._attention = function(
            "paged_attention", step, POINTER(Rule), address, c_int64, address, address
        )

    def describe(self) -> str:
        return ", ".join((f"C++ ({self._instruction_set})", *sorted(self._packed)))

    @property
    def can_be_recorded(self) -> bool:
        return False  # the host does the work

    @property
    def reads_whole_pages(self) -> bool:
        return True

    def takes_grouped(self, num_inputs: int) -> bool:
        can_multiply = self.dtype == torch.bfloat16 and bool(self.products.instructions)
        return can_multiply and num_inputs % GROUP_SIZE == 0

    def pack_linear(
        self,
        weight: Tensor | GroupedWeight,
        bias: Tensor | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> Linear:
        if isinstance(weight, GroupedWeight):
            self._packed.add(f"{weight.num_bits}-bit weights ({self.products.instructions})")
            return self.products.pack(weight, bias, output_dtype or self.dtype)
        name = str(weight.dtype).removeprefix("torch.")
        self._packed.add(f"{name} weights (oneDNN)")
        return PackedLinear(weight, bias, output_dtype)

    def pack_embedding(self, weight: Tensor | GroupedWeight) -> Embedding:
        return Table(weight) if isinstance(weight, Tensor) else GroupedTable(weight, self.dtype)

    def fuse(self, layers: Sequence[LayerParts]) -> FusedLayers | None:
        matrices = [(parts.qkv, parts.output, parts.gate_up, parts.down) for parts in layers]
        if not all(isinstance(matrix, QuantizedLinear) for four in matrices for matrix in four):
            return None
        return DecoderLayers(
            self._library, layers, cast(Sequence[Sequence[QuantizedLinear]], matrices)
        )

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        width = weight.shape[0]
        self._norms[weight.dtype](
            x.data_ptr(),
            None,
            weight.data_ptr(),
            out.data_ptr(),
            x.numel() // width,
            width,
            eps,
            self._num_threads,
        )
        return out

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        assert x.is_contiguous() and residual.is_contiguous()
        num_rows, width = x.shape
        norm = x.data_ptr()
        self._norms[weight.dtype](
            norm,
            residual.data_ptr(),
            weight.data_ptr(),
            norm,
            num_rows,
            width,
            eps,
            self._num_threads,
        )
        return x, residual

    def add_layer_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        assert x.is_contiguous() and residual.is_contiguous()
        num_rows, width = x.shape
        self._add_layer_norm(
            x.data_ptr(),
            residual.data_ptr(),
            weight.data_ptr(),
            bias.data_ptr(),
            num_rows,
            width,
            eps,
            self._num_threads,
        )
        return x, residual

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return self._activate(self._silu_mul, gate_up, gate_up.shape[1] // 2)

    def gelu(self, x: Tensor) -> Tensor:
        return self._activate(self._gelu, x, x.shape[1])

    def gelu_mul(self, gate_up: Tensor) -> Tensor:
        return self._activate(self._gelu_mul, gate_up, gate_up.shape[1] // 2)

    def _activate(self, function: Any, x: Tensor, width: int) -> Tensor:
        """[num_tokens, ...] to [num_tokens, width], in a buffer of which there is one."""
        assert x.is_contiguous()
        num_rows = x.shape[0]
        if self._activated.shape != (num_rows, width):
            self._activated = x.new_empty((num_rows, width))
        out = self._activated
        function(x.data_ptr(), out.data_ptr(), num_rows, width, self._num_threads)
        return out

    def plan(self, layout: StepLayout) -> CpuPlan:
        assert layout.block_size % 16 == 0  # pages hold whole vectors of positions (step.h)
        num_tokens = layout.rows.shape[0]
        self._num_threads = torch.get_num_threads()
        group = layout.num_heads // layout.num_kv_heads
        tile_tokens = max(1, _TILE_ROWS // group)
        tiles = [
            number
            for span in layout.spans
            for first in range(0, span.num_tokens, tile_tokens)
            for number in (
                span.row,
                span.first_token + first,
                min(tile_tokens, span.num_tokens - first),
                span.start + first,
            )
        ]
        step = _Step(
            rows=layout.rows.data_ptr(),
            positions=layout.positions.data_ptr(),
            block_tables=layout.block_tables.data_ptr(),
            tiles=(c_int32 * len(tiles))(*tiles),
            num_tokens=num_tokens,
            num_tiles=len(tiles) // 4,
            max_blocks=layout.block_tables.shape[1],
            block_size=layout.block_size,
            num_heads=layout.num_heads,
            num_kv_heads=layout.num_kv_heads,
            head_dim=layout.head_dim,
            num_threads=self._num_threads,
        )
        return CpuPlan(
            positions=layout.positions,
            spans=layout.spans,
            layout=layout,
            step=pointer(step),
            attended=torch.empty((num_tokens, layout.num_heads, layout.head_dim), dtype=self.dtype),
        )

    def rotary_store_kv(
        self,
        qkv: Tensor,
        cos_sin: Tensor,
        kv: Tensor,
        plan: AttentionPlan,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        assert isinstance(plan, CpuPlan) and qkv.is_contiguous() and cos_sin.is_contiguous()
        norm_heads(qkv, plan.layout.num_kv_heads, norms, self.rms_norm)
        self._rotary_store_kv(plan.step, qkv.data_ptr(), cos_sin.data_ptr(), kv.data_ptr())
        return qkv[:, : plan.layout.num_heads]

    def store_kv(self, qkv: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        assert isinstance(plan, CpuPlan) and qkv.is_contiguous()
        self._store_kv(plan.step, qkv.data_ptr(), kv.data_ptr())
        return qkv[:, : plan.layout.num_heads]

    def paged_attention(
        self, q: Tensor, kv: Tensor, plan: AttentionPlan, rule: AttentionRule = CAUSAL
    ) -> Tensor:
        assert isinstance(plan, CpuPlan)
        out = plan.attended
        native = native_rule(rule, plan.layout.head_dim)
        self._attention(plan.step, native, q.data_ptr(), q.stride(0), kv.data_ptr(), out.data_ptr())
        return out
