"""What the README tells people to type is typed here, against a real `octavo serve`.

Blocks after a line `<!-- tested -->` are run as they stand, but for the server's address.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_process import ENVIRONMENT, ROOT, octavo_serve

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
OCTAVO = [sys.executable, "-m", "octavo_client"]


def blocks_to_run(language: str) -> list[str]:
    return re.findall(rf"<!-- tested -->\n```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def address(builtin_model: Path) -> Iterator[str]:
    """A server started as the README says; `builtin_model` has put its model into the cache."""
    with octavo_serve() as address:
        yield address


def run(command: list[str]) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=110
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_curl_lines(address: str) -> None:
    plain, streamed = (
        run(["sh", "-c", block.replace(ADDRESS, address)]) for block in blocks_to_run("sh")
    )
    text = json.loads(plain)["choices"][0]["text"]
    assert "Paris" in text

    *events, done = [line.removeprefix("data: ") for line in streamed.split("\n") if line]
    assert done == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == text
    assert len(events) > 1


def test_the_python_block(address: str) -> None:
    (block,) = blocks_to_run("python")
    answer = run([sys.executable, "-c", block.replace(ADDRESS, address)])
    first, _, streamed = answer.partition("\n")
    assert "Paris" in first
    assert streamed.strip()


def test_the_options_are_real() -> None:
    table = README.partition("## Options")[2].partition("\n## ")[0]
    options = set(re.findall(r"`(--[a-z-]+)`", table))
    assert "--port" in options
    assert options <= set(re.findall(r"--[a-z-]+", run([*OCTAVO, "serve", "--help"])))


def test_the_make_targets_are_real() -> None:
    targets = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert {"serve", "test"} <= targets
    for target in targets:
        run(["make", "--dry-run", target])


def test_make_serve_passes_model_and_arguments() -> None:
    printed = run(["make", "--dry-run", "serve", "MODEL=my.gguf", "ARGS=--port 9000"])
    assert "octavo serve my.gguf --port 9000" in printed


def test_the_folders_are_there() -> None:
    table = README.partition("## What is where")[2].partition("\n## ")[0]
    folders = re.findall(r"^\| `([a-z/]+)/`", table, re.MULTILINE)
    assert "engine" in folders
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
