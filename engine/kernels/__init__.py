"""The kernel sets by name, imported when chosen."""

from __future__ import annotations

import importlib

import torch

from engine.kernels.base import Kernels

_SETS = {"reference": "engine.kernels.reference:ReferenceKernels"}


def select(device: torch.device, dtype: torch.dtype, name: str = "auto") -> Kernels:
    """The best kernel set for `device` and `dtype`, or the one called `name`."""
    module, _, attribute = _SETS["reference" if name == "auto" else name].partition(":")
    kernels: Kernels = getattr(importlib.import_module(module), attribute)(device, dtype)
    return kernels
