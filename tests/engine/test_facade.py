"""What the engine shows to the outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

import engine


def test_all_is_sorted_and_complete() -> None:
    modules = {name.split(".")[1] for name in sys.modules if name.startswith("engine.")}
    imported = {"annotations", "importlib", "TYPE_CHECKING"}
    public = {name for name in vars(engine) if not name.startswith("_")} - modules - imported
    public.update(engine._OF_THE_CLIENT)
    assert all(hasattr(engine, name) for name in public)
    assert engine.__all__ == sorted(engine.__all__)
    assert set(engine.__all__) == public


def test_names_that_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="'Engines'"):
        engine.Engines  # noqa: B018


def test_importing_it_loads_neither_torch_nor_what_the_child_needs() -> None:
    code = "import sys, engine; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "engine.core", "engine.process"} & set(loaded.stdout.split())
