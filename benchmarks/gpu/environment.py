"""What a run found: the GPU and the versions. Printed first and kept with every result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("torch", "triton", "transformers", "numpy", "vllm", "flashinfer-python", "flash-attn")


def resolve_device(name: str) -> torch.device:
    """ "auto" is the GPU, where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def find_environment(device: torch.device) -> dict[str, str]:
    """Names and versions; "-" for what is not installed."""
    found = {"device": _describe(device), "commit": _commit(), "python": platform.python_version()}
    found |= {package: _version(package) for package in _PACKAGES}
    found["cuda"] = str(torch.version.cuda or "-")
    return found


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"cpu, {torch.get_num_threads()} threads"
    gpu = torch.cuda.get_device_properties(device)
    return (
        f"{gpu.name}, {gpu.multi_processor_count} SMs, {gpu.total_memory / 2**30:.0f} GiB, "
        f"compute capability {gpu.major}.{gpu.minor}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _commit() -> str:
    """Of this source tree; "-" where it was copied without its history."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "-"
    return run.stdout.strip() or "-"
