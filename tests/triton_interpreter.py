"""Where tests run Triton's kernels: on the GPU, or on the CPU in Triton's interpreter.

Import it before any module with kernels: Triton reads its variable when a kernel is defined.
"""

from __future__ import annotations

import inspect
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

triton = pytest.importorskip("triton", reason="needs triton (the extra `dev`)")


class PatchOnce:
    """In the place of the interpreter's `_patch_lang`, which makes `triton.language` run on numpy.

    That does its long work at each call of a function by a kernel. Here once for a launch.
    Functions that loop up to a number from a tensor fail with numpy 2.4 without `__index__`.
    """

    def __init__(self, interpreter: Any) -> None:
        self._patch_lang = interpreter._patch_lang
        self._tl = interpreter.tl
        self._scopes: list[Any] = []
        self._patched: set[int] = set()

    def __call__(self, function: Any) -> Any:
        modules = {id(self._tl), id(self._tl.core)}
        seen = {id(value) for value in function.__globals__.values() if inspect.ismodule(value)}
        is_launch = not self._scopes
        if not seen & modules <= self._patched:
            self._patched |= seen & modules
            scope = self._patch_lang(function)
            scope.set_attr(
                self._tl.tensor, "__index__", lambda tensor: int(tensor.handle.data.item())
            )
            self._scopes.append(scope)
        return SimpleNamespace(restore=self._restore if is_launch else lambda: None)

    def _restore(self) -> None:
        while self._scopes:
            self._scopes.pop().restore()
        self._patched.clear()


if DEVICE.type == "cpu":
    from triton.runtime import interpreter

    if not isinstance(triton.language.sum, interpreter.InterpretedFunction):
        pytest.skip("triton was imported before TRITON_INTERPRET was set", allow_module_level=True)
    interpreter._patch_lang = PatchOnce(interpreter)
