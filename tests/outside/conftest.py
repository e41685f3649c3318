"""One server for all tests from the outside: the built-in model in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_process import octavo_serve

# Few, so that requests which live on after their clients have gone would keep others waiting.
MAX_NUM_SEQS = 8
NAMES = "smollm2-135m-instruct,text-davinci-002,HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def address(builtin_model: Path) -> Iterator[str]:
    """Its address, without a path. `builtin_model` has put its model into the cache."""
    options = ["--dtype", "float32", "--max-num-seqs", str(MAX_NUM_SEQS)]
    with octavo_serve(*options, "--served-model-name", NAMES) as address:
        yield address


@pytest.fixture(scope="session")
def key() -> str:
    return "sk-outside-0123456789"


@pytest.fixture(scope="session")
def locked_address(builtin_model: Path, key: str) -> Iterator[str]:
    """Another one, which wants this key."""
    with octavo_serve("--dtype", "float32", "--api-key", key) as address:
        yield address
