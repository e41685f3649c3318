"""Environments are made once, in full, or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from client_environments import ClientEnvironment
from tiny_wheel import make_wheel


@pytest.fixture
def environment(tmp_path: Path) -> ClientEnvironment:
    """One that holds a single package, which takes no index to install."""
    make_wheel(tmp_path / "wheels", b"content")
    requirements = tmp_path / "tiny.txt"
    requirements.write_text(str(tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"))
    return ClientEnvironment(requirements, home=tmp_path / "home")


def finds(python: Path, name: str) -> bool:
    script = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"
    return subprocess.run([python, "-I", "-c", script]).returncode == 0


def test_it_is_made_once_and_holds_nothing_else(environment: ClientEnvironment) -> None:
    python = environment.python()
    assert finds(python, "tiny_model")
    assert not finds(python, "pytest")
    kept = python.parent.parent / "kept"
    kept.touch()
    assert environment.python() == python
    assert kept.exists()

    (python.parent.parent / ".complete").unlink()  # as if it had been interrupted
    assert environment.python() == python
    assert not kept.exists()

    environment.requirements.write_text(f"# changed\n{environment.requirements.read_text()}")
    assert environment.python() != python


def test_one_that_borrows_finds_what_is_here_too(environment: ClientEnvironment) -> None:
    borrowing = ClientEnvironment(environment.requirements, borrows=True, home=environment.home)
    python = borrowing.python()
    assert finds(python, "tiny_model")
    assert finds(python, "torch")


def test_what_pip_cannot_find_is_an_error_that_says_so(tmp_path: Path) -> None:
    requirements = tmp_path / "nothing.txt"
    requirements.write_text(str(tmp_path / "absent-1.0-py3-none-any.whl"))
    environment = ClientEnvironment(requirements, home=tmp_path / "home")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"(?s)nothing could not be made.*absent-1\.0"):
            environment.python()
