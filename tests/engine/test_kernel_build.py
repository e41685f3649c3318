"""Building the C++ kernels: once per machine, whole or not at all, and doing without them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from engine.kernels import select
from engine.kernels.cpu import BuildError

CPU = torch.device("cpu")
LOG = "octavo.engine"


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_built_once_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")  # a compiler that refuses our source is a failure
    select(CPU, torch.bfloat16, "cpu", tmp_path)
    (built,) = (tmp_path / "kernels").iterdir()
    [message] = caplog.messages
    assert str(built) in message
    before = built.stat()
    caplog.clear()
    assert select(CPU, torch.float32, cache_dir=tmp_path).describe().startswith("C++ (")
    assert [path.stat().st_ino for path in built.parent.iterdir()] == [before.st_ino]
    assert not caplog.messages


def test_without_a_compiler(
    tmp_path: Path, path_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = select(CPU, torch.float32, cache_dir=tmp_path)
    assert kernels.describe() == "plain torch (no C++ compiler)"
    [message] = caplog.messages
    assert "no C++ compiler" in message
    with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
        select(CPU, torch.float32, "cpu", tmp_path)


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path, path_folder: Path) -> None:
    compiler = path_folder / "g++"
    compiler.write_text("#!/bin/sh\necho 'kernels.cpp: error: out of ideas' >&2\nexit 1\n")
    compiler.chmod(0o755)
    kernels = select(CPU, torch.float32, cache_dir=tmp_path)
    assert "out of ideas" in kernels.describe()
    assert list((tmp_path / "kernels").iterdir()) == []


def test_a_library_that_cannot_be_loaded(tmp_path: Path, path_folder: Path) -> None:
    compiler = path_folder / "g++"
    script = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n'
    compiler.write_text(script)
    compiler.chmod(0o755)
    assert "cannot be used" in select(CPU, torch.float32, cache_dir=tmp_path).describe()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("in the way")
    kernels = select(CPU, torch.float32, cache_dir=tmp_path)
    assert kernels.describe().startswith("plain torch (")
