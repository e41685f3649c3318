"""The linear layer: a weight packed once, at load, for the device it lives on.

On the CPU oneDNN's blocked layout is not only faster than `F.linear`: a row's result is the same
bits whatever the number of rows, which plain matrix products do not promise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN chooses the blocks for this many rows; other numbers run as well.
_ROWS_HINT = 16


class PackedLinear:
    """x W^T + b, for x [num_tokens, in] and W [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.is_packed = weight.device.type == "cpu" and _onednn_supports(weight.dtype)
        self.weight = weight
        self.bias = bias
        # oneDNN takes another path for a single float32 row, with another order of summation.
        self.min_rows = 2 if weight.dtype == torch.float32 else 1
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.is_packed:
            return F.linear(x, self.weight, self.bias)
        num_rows = x.shape[0]
        if num_rows < self.min_rows:
            x = x.expand(self.min_rows, -1).contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y[:num_rows]


def _onednn_supports(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
