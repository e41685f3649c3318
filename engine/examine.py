"""What the machine has and what the engine would make of it, for who asks before starting one.

Imports no torch: what depends on it is found out by a child (`torch_probe.py`), because anything
may be wrong there, and its end must not be ours.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.limits import available_cpus, available_memory, total_memory
from engine.processor import cpu_flags

# The first start may compile kernels.
PROBE_SECONDS = 180.0

_CPUINFO = Path("/proc/cpuinfo")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_MODEL_NAME = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Machine:
    """Sizes are in bytes. `gpus` are those that NVIDIA's driver knows, whatever torch can do with
    them; `huge_pages` is the system's setting, None where it has none."""

    processor: str
    architecture: str
    cpu_flags: frozenset[str]
    num_cpus: int
    usable_cpus: int
    total_memory: int
    available_memory: int
    gpus: tuple[str, ...]
    huge_pages: str | None


@dataclass(frozen=True, slots=True)
class EngineProspect:
    """What an engine of this configuration would compute with; None is what could not be found out.

    `error` says in a line why the rest is not known.
    """

    torch: str | None = None
    cuda_build: str | None = None
    compiler: str | None = None
    gpus: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    num_threads: int | None = None
    reason: str | None = None
    kernels: str | None = None
    stays_quantized: bool | None = None
    error: str | None = None


def examine_machine() -> Machine:
    return Machine(
        processor=_processor_name(),
        architecture=platform.machine(),
        cpu_flags=cpu_flags(),
        num_cpus=os.cpu_count() or 1,
        usable_cpus=available_cpus(),
        total_memory=total_memory(),
        available_memory=available_memory(),
        gpus=_nvidia_gpus(),
        huge_pages=_huge_pages(),
    )


def examine_engine(
    config: EngineConfig, *, is_quantized: bool, seconds: float = PROBE_SECONDS
) -> EngineProspect:
    """Choose device and kernels as an engine would, in a child. Compiles what it would compile."""
    job = json.dumps({"config": asdict(config), "is_quantized": is_quantized})
    found: dict[str, Any] = {}
    try:
        run = subprocess.run(
            [sys.executable, "-m", "engine.torch_probe"],
            input=job,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            cwd=Path(__file__).resolve().parent.parent,
        )
    except subprocess.TimeoutExpired:
        return EngineProspect(error=f"torch did not answer in {seconds:g} s")
    for line in run.stdout.splitlines():
        # A library may print whatever it likes.
        with suppress(ValueError):
            found |= json.loads(line) if line.startswith("{") else {}
    if run.returncode != 0:
        words = run.stderr.strip().splitlines()[-1:] or [f"it ended with {run.returncode}"]
        found["error"] = words[0]
    return EngineProspect(**{**found, "gpus": tuple(found.get("gpus", ()))})


def _processor_name() -> str:
    try:
        match = _MODEL_NAME.search(_CPUINFO.read_text())
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or "unknown"


def _nvidia_gpus() -> tuple[str, ...]:
    try:
        texts = [path.read_text() for path in sorted(_NVIDIA.glob("*/information"))]
    except OSError:
        return ()
    found = [re.search(r"^Model:\s*(.+)$", text, re.MULTILINE) for text in texts]
    return tuple(match[1].strip() if match else "NVIDIA GPU" for match in found)


def _huge_pages() -> str | None:
    """The setting that is chosen: always, madvise or never."""
    try:
        match = re.search(r"\[(\w+)\]", _HUGE_PAGES.read_text())
    except OSError:
        return None
    return match[1] if match else None
