"""Linear layers whose weights stay quantized: `quantized.h` multiplies them with int8 rows.

One copy of the weights, in an order that C++ reads from first to last; they lie in large pages
where the system has them. A row's result is the same bits whatever is multiplied with it.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_void_p
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoint.grouped import GROUP_SIZE, GroupedWeight
from engine.memory import large_memory

_TILE = 32  # outputs; kTile of quantized.h
_SLAB_BYTES = 32 << 20
_ALIGNMENT = 64


class Matrix(ctypes.Structure):
    """`Matrix` of quantized.h."""

    _fields_ = (
        ("blocks", c_void_p),
        ("bias", c_void_p),
        ("num_bits", c_int32),
        ("num_outputs", c_int32),
        ("num_inputs", c_int32),
    )


class QuantizedProducts:
    """The C++ functions, and the memory of all weights that they multiply with."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.dot_products.restype = c_char_p
        self.instructions: str = library.dot_products().decode()
        matrix, address = POINTER(Matrix), c_void_p
        self._pack = library.pack_matrix
        self._pack.argtypes = (matrix, address, address, address, c_int32)
        self._pack.restype = None
        self._size = library.matrix_size
        self._size.argtypes = (matrix,)
        self._size.restype = c_int64
        self._multiply: dict[torch.dtype, Any] = {
            torch.bfloat16: library.multiply_bfloat16,
            torch.float32: library.multiply_bfloat16_to_float32,
        }
        for function in self._multiply.values():
            function.argtypes = (matrix, address, address, c_int64, c_int32)
            function.restype = None
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def pack(
        self, weight: GroupedWeight, bias: Tensor | None, output_dtype: torch.dtype
    ) -> QuantizedLinear:
        """Take over `weight`, in bfloat16 arithmetic around the integers."""
        num_outputs, num_inputs = weight.shape
        matrix = Matrix(None, None, weight.num_bits, num_outputs, num_inputs)
        blocks = self._allocate(self._size(byref(matrix)))
        matrix.blocks = blocks.data_ptr()
        parts: list[NDArray[Any]] = [weight.values, weight.scales, weight.minima]
        assert all(part.flags.c_contiguous for part in parts)
        assert weight.values.shape == (num_outputs, num_inputs // GROUP_SIZE, 4 * weight.num_bits)
        self._pack(byref(matrix), *(part.ctypes.data for part in parts), torch.get_num_threads())
        padded = None
        if bias is not None:
            padded = torch.zeros(-(-num_outputs // _TILE) * _TILE)
            padded[:num_outputs] = bias
            matrix.bias = padded.data_ptr()
        return QuantizedLinear(self._multiply[output_dtype], matrix, output_dtype, blocks, padded)

    def _allocate(self, size: int) -> Tensor:
        if self._used + size > len(self._slab):
            self._slab = large_memory(max(size, _SLAB_BYTES))
            self._used = 0
        start = self._used
        self._used = -(-(start + size) // _ALIGNMENT) * _ALIGNMENT
        return self._slab[start : start + size]


class GroupedTable:
    """Rows of a quantized table by their numbers, in `dtype`."""

    def __init__(self, weight: GroupedWeight, dtype: torch.dtype) -> None:
        self._num_bits = weight.num_bits
        self._dtype = dtype
        parts = (weight.values, weight.scales, weight.minima)
        self._values, self._scales, self._minima = map(torch.from_numpy, parts)

    def __call__(self, ids: Tensor) -> Tensor:
        values = self._values[ids]
        if self._num_bits == 4:
            values = torch.cat((values & 15, values >> 4), dim=-1)
        scales, minima = (part[ids].float()[..., None] for part in (self._scales, self._minima))
        rows = values.float().mul_(scales).add_(minima)
        return rows.flatten(1).to(self._dtype)


class QuantizedLinear:
    """x W^T + b for x bfloat16 [num_tokens, num_inputs]; W is what was packed."""

    def __init__(
        self,
        multiply: Any,
        matrix: Matrix,
        output_dtype: torch.dtype,
        *memory: Tensor | None,
    ) -> None:
        """`memory` is what `matrix` points to."""
        self._multiply = multiply
        self.matrix = matrix
        self._address = byref(matrix)
        self._output_dtype = output_dtype
        self._memory = memory

    def __call__(self, x: Tensor) -> Tensor:
        assert x.is_contiguous() and x.dtype == torch.bfloat16
        num_rows = x.shape[0]
        out = x.new_empty((num_rows, self.matrix.num_outputs), dtype=self._output_dtype)
        self._multiply(
            self._address, x.data_ptr(), out.data_ptr(), num_rows, torch.get_num_threads()
        )
        return out
