"""The Triton kernels as a set. See `Kernels` for what each method does.

Promised: what attention gives for a row depends on a step's other rows through the number of splits
at most. In steps of single tokens that follows from the number of tokens and the table's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.attention import CAUSAL, AttentionPlan, AttentionRule, StepLayout
from engine.checkpoint.grouped import GroupedWeight
from engine.kernels.base import Embedding, FusedLayers, HeadNorms, LayerParts, Linear
from engine.kernels.linear import PackedLinear, Table
from engine.kernels.triton.activation import gelu, gelu_mul, silu_mul
from engine.kernels.triton.attention import paged_attention
from engine.kernels.triton.layer_norm import add_layer_norm
from engine.kernels.triton.norm import add_rms_norm, rms_norm
from engine.kernels.triton.plan import Processors, TritonPlan, make_plan
from engine.kernels.triton.rotary import rotary_store_kv
from engine.kernels.triton.store import store_kv

_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
# So few that short contexts fall into several splits: interpreted tests are to see them.
_INTERPRETED = Processors(4, shared_bytes=227 << 10)
# What Triton compiles for: older GPUs end some compilations by a crash.
_MIN_CAPABILITY = (8, 0)


class TritonError(Exception):
    """The kernels cannot run here; the message says why in one line."""


class TritonKernels:
    """See `Kernels` for the contract of each method."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Compiles one of the kernels, to see that it can be done. Raises TritonError."""
        is_interpreted = bool(triton.knobs.runtime.interpret)
        if dtype not in _DTYPES:
            raise TritonError(f"no Triton kernels for {dtype}")
        if device.type != "cuda" and not is_interpreted:
            raise TritonError(f"Triton kernels need a GPU, not the device {str(device)!r}")
        self.device = device
        self.dtype = dtype
        self._packed: set[str] = set()
        if is_interpreted:
            self._operand = tl.float32
            self._processors = _INTERPRETED
            self._where = "interpreted"
        else:
            properties = torch.cuda.get_device_properties(device)
            capability = (properties.major, properties.minor)
            if capability < _MIN_CAPABILITY:
                raise TritonError(
                    f"Triton needs a GPU of compute capability 8.0; {properties.name} has "
                    f"{properties.major}.{properties.minor}"
                )
            self._operand = _DTYPES[dtype]
            self._where = properties.name
        ones = torch.ones(1, 16, dtype=dtype, device=device)
        try:
            rms_norm(ones, ones[0], 1e-5)
            if not is_interpreted:
                self._processors = _find_processors(device)
        except Exception as error:  # a compiler's: whatever it is, other kernels can serve
            reason = " ".join(str(error).split())
            raise TritonError(
                "Triton does not compile here, which takes a C compiler and Python's headers: "
                f"{type(error).__name__}: {reason}"
            ) from error

    def describe(self) -> str:
        kernels = f"Triton ({triton.__version__}, {self._where})"
        return ", ".join((kernels, *sorted(self._packed)))

    @property
    def can_be_recorded(self) -> bool:
        return True

    @property
    def reads_whole_pages(self) -> bool:
        return False

    def takes_grouped(self, num_inputs: int) -> bool:
        return False

    def pack_linear(
        self,
        weight: Tensor | GroupedWeight,
        bias: Tensor | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> Linear:
        assert isinstance(weight, Tensor), "see takes_grouped"
        self._packed.add(f"{str(weight.dtype).removeprefix('torch.')} weights (torch)")
        return PackedLinear(weight, bias, output_dtype)

    def pack_embedding(self, weight: Tensor | GroupedWeight) -> Embedding:
        assert isinstance(weight, Tensor), "see takes_grouped"
        return Table(weight)

    def fuse(self, layers: Sequence[LayerParts]) -> FusedLayers | None:
        return None

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, residual, weight, eps)

    def add_layer_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return add_layer_norm(x, residual, weight, bias, eps)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return silu_mul(gate_up)

    def gelu(self, x: Tensor) -> Tensor:
        return gelu(x)

    def gelu_mul(self, gate_up: Tensor) -> Tensor:
        return gelu_mul(gate_up)

    def plan(self, layout: StepLayout) -> TritonPlan:
        """With one token in each span, the plan is good for whatever the layout's tensors hold
        later; a token at position -1 is padding, which has no page and attends to nothing."""
        return make_plan(layout, self.dtype, self._processors)

    def rotary_store_kv(
        self,
        qkv: Tensor,
        cos_sin: Tensor,
        kv: Tensor,
        plan: AttentionPlan,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        assert isinstance(plan, TritonPlan)
        return rotary_store_kv(qkv, cos_sin, kv, plan.layout, norms)

    def store_kv(self, qkv: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        assert isinstance(plan, TritonPlan)
        return store_kv(qkv, kv, plan.layout)

    def paged_attention(
        self, q: Tensor, kv: Tensor, plan: AttentionPlan, rule: AttentionRule = CAUSAL
    ) -> Tensor:
        assert isinstance(plan, TritonPlan)
        return paged_attention(q, kv, plan, rule, self._operand)


def _find_processors(device: torch.device) -> Processors:
    index = torch.cuda.current_device() if device.index is None else device.index
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Processors(found["multiprocessor_count"], shared_bytes=found["max_shared_mem"])
