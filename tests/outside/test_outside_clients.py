"""Other people's clients against a real server on a socket.

What each does is in `checks/`, which pytest runs in the environment of that client.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from client_environments import CLEAN, LLAMA_INDEX, OPENAI_028, OPENAI_3, ClientEnvironment
from serve_process import ROOT

# The first time an environment is made takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKS = Path(__file__).parent / "checks"
README = (ROOT / "README.md").read_text()
ENVIRONMENTS = {env.name: env for env in (OPENAI_3, OPENAI_028, LLAMA_INDEX)}


def blocks() -> list[tuple[str, str]]:
    """Environment and code of the README's blocks that are marked with one."""
    return re.findall(r"<!-- tested with (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(
    ("environment", "checks"),
    [
        (OPENAI_3, "openai_3_checks.py"),
        (OPENAI_3, "langchain_checks.py"),
        (LLAMA_INDEX, "llama_index_checks.py"),
        (OPENAI_028, "openai_028_checks.py"),
    ],
    ids=["openai-3", "langchain", "llama-index", "openai-0.28"],
)
def test_checks_pass(
    environment: ClientEnvironment,
    checks: str,
    address: str,
    locked_address: str,
    key: str,
    tmp_path: Path,
) -> None:
    # No settings of ours: they ask for plugins that the environment does not have.
    isolated = ["-c", "/dev/null", "--noconftest", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [environment.python(), "-m", "pytest", "-q", "--tb=short", *isolated, CHECKS / checks],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=CLEAN | {"OCTAVO_URL": address, "OCTAVO_LOCKED_URL": locked_address, "OCTAVO_KEY": key},
        timeout=600,
    )
    assert result.returncode == 0, f"{result.stdout[-10000:]}\n{result.stderr[-2000:]}"
    print(result.stdout.splitlines()[-1])


def test_the_readme_has_a_block_for_each_environment() -> None:
    assert {name for name, _ in blocks()} == set(ENVIRONMENTS)


@pytest.mark.parametrize(("name", "block"), blocks(), ids=[name for name, _ in blocks()])
def test_the_readmes_block_runs(name: str, block: str, address: str, tmp_path: Path) -> None:
    code = block.replace("http://127.0.0.1:8000", address)
    assert address in code
    result = subprocess.run(
        [ENVIRONMENTS[name].python(), "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=CLEAN,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
