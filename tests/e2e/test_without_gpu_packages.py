"""A machine without a GPU needs none of its packages: a server in whose processes nothing of CUDA
and no Triton can be imported answers, with the kernels for CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serve_process import ENVIRONMENT, command, serving

# Python runs it at the start of each process that finds it on its path, the engine's too.
SITECUSTOMIZE = """
import os, sys
from importlib.abc import MetaPathFinder

PREFIXES = ("triton", "nvidia", "cuda", "cupy", "flash_attn", "flashinfer", "pynvml")

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if "." not in name and name.startswith(PREFIXES):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
with open(os.environ["HOOKED"], "a") as hooked:
    hooked.write(f"{' '.join(sys.orig_argv)}\\n")
"""


def test_a_completion(
    builtin_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    hooked = tmp_path / "hooked"
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    environment = {"PYTHONPATH": path, "HOOKED": str(hooked)}
    with serving(command(builtin_model), environment=environment) as (_, url):
        assert "C++ (" in capsys.readouterr().err
        answer = httpx.post(
            f"{url}/v1/completions",
            json={"model": "smol", "prompt": "The sea", "max_tokens": 6},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 6
    processes = hooked.read_text()
    assert "-m server" in processes
    assert "-m engine.process" in processes, "the engine's process was not hooked"


def test_the_hook_hides_them(tmp_path: Path) -> None:
    """Or else the test above could not fail."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOOKED": str(tmp_path / "hooked")}
    for name in ("triton", "nvidia.cublas", "flashinfer"):
        run = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert "ModuleNotFoundError: No module named" in run.stderr
        assert "in find_spec" in run.stderr
