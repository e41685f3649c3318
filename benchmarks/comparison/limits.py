"""The machine's limits, measured by `limits.cpp`, which is built on the fly.

Both plots and tables set the servers' figures against them. Without a compiler there are none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("limits.cpp")
TIMEOUT = 300.0


class LimitsError(Exception):
    """There are no limits to be had; one line that says why."""


def build_limits(folder: Path) -> Path:
    """The program. Raises LimitsError."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise LimitsError("there is no g++")
    program = folder / "limits"
    flags = ["-O3", "-std=c++17", "-march=native", "-fopenmp"]
    built = _run([compiler, *flags, str(SOURCE), "-o", str(program)])
    if built.returncode:
        raise LimitsError(f"{SOURCE.name} does not compile: {built.stderr.strip()[:200]}")
    return program


def measure_limits() -> dict[str, float]:
    """GB/s and billions of operations a second, by name. Raises LimitsError."""
    with tempfile.TemporaryDirectory() as folder:
        measured = _run([str(build_limits(Path(folder)))])
    if measured.returncode:
        raise LimitsError(f"the program ended with {measured.returncode}")
    return {name: float(value) for name, value in json.loads(measured.stdout).items()}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LimitsError(f"{command[0]}: {error}") from error
