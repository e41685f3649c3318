"""One script, run with `openai` and with `octavo_client`: for what both have, nothing differs.

And the example of `docs/examples` that needs LangChain.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from client_environments import CLEAN, OPENAI_3
from serve_process import ROOT

# The first time the environment is made takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EXAMPLES = ROOT / "docs" / "examples"
SCRIPT = Path(__file__).parent / "checks" / "either_client.py"


def output(python: str | Path, library: str, address: str, environment: dict[str, str]) -> str:
    settings = {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": "none is needed"}
    result = subprocess.run(
        [python, SCRIPT, library],
        capture_output=True,
        text=True,
        env=CLEAN | settings | environment,
        timeout=300,
    )
    assert result.returncode == 0, f"{library}: {result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def test_both_libraries_see_the_same(address: str) -> None:
    ours = {"PYTHONPATH": str(ROOT / "clients" / "python")}
    theirs = output(OPENAI_3.python(), "openai", address, {})
    assert output(sys.executable, "octavo_client", address, ours) == theirs
    assert "Paris" in theirs
    for name in ("no model", "temperature", "context", "unknown", "timeout", "nobody"):
        assert f"\n{name}" in theirs, "the script says too little"


def test_the_example_with_langchain(address: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [OPENAI_3.python(), EXAMPLES / "langchain_chain.py", "a lighthouse"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=CLEAN | {"OCTAVO_BASE_URL": f"{address}/v1"},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 10
