"""A model's decoder layers in one call to C++, where all their weights are quantized.

The same kernels in the same order as in models/llama.py, and the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_void_p
from typing import Any

import torch
from torch import Tensor

from engine.kernels.base import LayerParts
from engine.kernels.cpu.quantized import QuantizedLinear
from engine.kernels.cpu.rule import Rule, native_rule


class _Layer(ctypes.Structure):
    """`Layer` of decoder.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, c_void_p) for name in ("qkv", "output", "gate_up", "down")),
        ("eps", c_float),
        ("rule", Rule),
    )


class _Buffers(ctypes.Structure):
    """`Buffers` of decoder.h."""

    _fields_ = tuple((name, c_void_p) for name in ("qkv", "attended", "gate_up", "gated"))


class DecoderLayers:
    """See `Kernels.fuse`. `matrices` are each layer's qkv, output, gate_up and down."""

    def __init__(
        self,
        library: ctypes.CDLL,
        layers: Sequence[LayerParts],
        matrices: Sequence[Sequence[QuantizedLinear]],
    ) -> None:
        self._run = library.decoder_layers_bfloat16
        address = c_void_p
        self._run.argtypes = (address, c_int32, *([address] * 6))
        self._run.restype = None
        # The whole step is ours but for the sampling: torch's threads are not there to share.
        library.use_own_threads()
        self._memory = (layers, matrices)  # what the structures point to
        self._layers = (_Layer * len(layers))(
            *(
                _Layer(
                    *(_address(norm) for norm in (parts.attention_norm, parts.mlp_norm)),
                    *(_address(norm) for norm in (parts.q_norm, parts.k_norm)),
                    *(ctypes.addressof(matrix.matrix) for matrix in four),
                    parts.eps,
                    native_rule(parts.rule, parts.head_dim),
                )
                for parts, four in zip(layers, matrices, strict=True)
            )
        )
        qkv, _, gate_up, down = matrices[0]
        self._widths = (
            qkv.matrix.num_outputs,
            gate_up.matrix.num_outputs,
            down.matrix.num_inputs,
        )

    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        cos_sin: Sequence[Tensor],
        kv: Sequence[Tensor],
        plan: Any,
    ) -> tuple[Tensor, Tensor]:
        assert x.is_contiguous() and residual.is_contiguous()
        assert all(angles.is_contiguous() for angles in cos_sin)
        assert x.dtype == torch.bfloat16 and len(kv) == len(cos_sin) == len(self._layers)
        qkv, gate_up, gated = (x.new_empty((x.shape[0], width)) for width in self._widths)
        buffers = _Buffers(
            qkv.data_ptr(), plan.attended.data_ptr(), gate_up.data_ptr(), gated.data_ptr()
        )
        pages = (c_void_p * len(kv))(*(layer.data_ptr() for layer in kv))
        angles = (c_void_p * len(kv))(*(layer.data_ptr() for layer in cos_sin))
        self._run(
            ctypes.addressof(self._layers),
            len(self._layers),
            ctypes.addressof(plan.step.contents),
            x.data_ptr(),
            residual.data_ptr(),
            ctypes.addressof(angles),
            ctypes.addressof(pages),
            ctypes.addressof(buffers),
        )
        return x, residual


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
