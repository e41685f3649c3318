"""Plain weights in torch: matrices packed once, at load, for the device they live on; tables.

On the CPU oneDNN's blocked layout is not only faster than `F.linear`: a row's result is the same
bits whatever the number of rows, which plain matrix products do not promise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN chooses the blocks for this many rows; other numbers run as well.
_ROWS_HINT = 16


class Table:
    """Rows of a weight [num_rows, width] by their numbers."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class PackedLinear:
    """x W^T + b, for x [num_tokens, in] and W [out, in]."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        self.is_packed = weight.device.type == "cpu" and _onednn_supports(weight.dtype)
        self.weight = weight
        self.bias = bias
        self.output_dtype = output_dtype or weight.dtype
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)

    def __call__(self, x: Tensor) -> Tensor:
        return self._multiply(x).to(self.output_dtype)

    def _multiply(self, x: Tensor) -> Tensor:
        if not self.is_packed:
            return F.linear(x, self.weight, self.bias)
        if x.shape[0] == 1:
            # oneDNN takes another path for a single row, with another order of summation.
            return self._multiply(torch.cat((x, x)))[:1]
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x, self.weight, self.bias, "none", [], ""
        )
        return y


def _onednn_supports(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
