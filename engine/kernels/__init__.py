"""The kernel sets by name, imported when chosen."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import torch

from engine.checkpoint.cache import default_cache_dir
from engine.checkpoint.grouped import GROUP_SIZE
from engine.errors import EngineStartError
from engine.kernels.base import Kernels

logger = logging.getLogger("octavo.engine")


def select(
    device: torch.device,
    dtype: torch.dtype,
    name: str = "auto",
    cache_dir: Path | None = None,
) -> Kernels:
    """The best kernel set for `device` and `dtype`, or the one called `name`.

    What the CPU's kernels have compiled is kept in `cache_dir`; Triton has a cache of its own.
    """
    if name == "reference":
        return _reference(device, dtype, "asked for")
    if name == "triton" or device.type == "cuda":
        return _triton(device, dtype, is_asked_for=name == "triton")
    if device.type != "cpu":
        return _reference(device, dtype, f"no others for the device {device.type!r}")
    cpu = importlib.import_module("engine.kernels.cpu")
    try:
        kernels: Kernels = cpu.CpuKernels(dtype, cache_dir or default_cache_dir())
    except cpu.BuildError as error:
        if name == "cpu":
            raise
        logger.warning("plain torch kernels serve, which are slower: %s", error)
        return _reference(device, dtype, str(error))
    return kernels


def keeps_quantized(cache_dir: Path | None = None) -> bool:
    """Whether this CPU multiplies quantized weights as they are, with bfloat16 activations."""
    cpu = importlib.import_module("engine.kernels.cpu")
    try:
        kernels: Kernels = cpu.CpuKernels(torch.bfloat16, cache_dir or default_cache_dir())
    except cpu.BuildError:
        return False  # `select` says why
    return kernels.takes_grouped(GROUP_SIZE)


def check_quantization(quantization: str, kernels: Kernels, dtype_name: str) -> None:
    """Raises EngineStartError for weights that are to be quantized where `kernels` take none."""
    if quantization in ("int8", "int4") and not kernels.takes_grouped(GROUP_SIZE):
        raise EngineStartError(
            f"quantization {quantization!r} needs a CPU with AVX2, a C++ compiler and dtype "
            f"bfloat16; here are {kernels.describe()} kernels and {dtype_name}"
        )


def _triton(device: torch.device, dtype: torch.dtype, is_asked_for: bool) -> Kernels:
    reason: Exception
    try:
        triton = importlib.import_module("engine.kernels.triton")
        try:
            kernels: Kernels = triton.TritonKernels(device, dtype)
            return kernels
        except triton.TritonError as error:
            reason = error
    except ImportError as error:  # torch for another platform brings no triton
        reason = error
    if is_asked_for:
        raise reason
    logger.warning("plain torch kernels serve, which are slower: %s", reason)
    return _reference(device, dtype, str(reason))


def _reference(device: torch.device, dtype: torch.dtype, reason: str) -> Kernels:
    reference = importlib.import_module("engine.kernels.reference")
    kernels: Kernels = reference.ReferenceKernels(device, dtype, reason)
    return kernels
