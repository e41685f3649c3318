"""Where tests run Triton's kernels: on the GPU, or on the CPU in Triton's interpreter.

Import it before any module with kernels: Triton reads its variable when a kernel is defined.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

triton = pytest.importorskip("triton", reason="needs triton (the extra `dev`)")


def _accept_sizes_of_one(interpreter: Any) -> None:
    """Loops with bounds from tensors fail with numpy 2.4: Triton 3.6 calls `int` on shape [1]."""
    patch_tensor = interpreter._patch_lang_tensor

    @functools.wraps(patch_tensor)
    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch


if DEVICE.type == "cpu":
    from triton.runtime import interpreter

    if not isinstance(triton.language.sum, interpreter.InterpretedFunction):
        pytest.skip("triton was imported before TRITON_INTERPRET was set", allow_module_level=True)
    _accept_sizes_of_one(interpreter)
