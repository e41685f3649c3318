"""Who may import whom, and the house rules that a machine can check.

`LAYERS` is the table of DESIGN as code: a module obeys the row with the longest name that is a
prefix of its own. A module without a row fails: a new room needs a place in the house first.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers import ENVIRONMENT, LATE_IMPORTS, LAYERS

ROOT = Path(__file__).parent.parent
MAX_LINES = 400
SOURCE_SUFFIXES = {".py", ".pyi", ".c", ".cpp", ".h", ".hpp", ".cu", ".cuh"}
SOURCE_FOLDERS = ["server", "engine", "clients", "tests", "benchmarks"]


UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
UNSAFE_BUILTINS = {"eval", "exec", "__import__"}
UNSAFE_CALLS = {"torch.load"}
ENVIRONMENT_READS = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}


def under(module: str, prefixes: tuple[str, ...]) -> bool:
    """Whether `module` is one of `prefixes` or lies under one ("engine." is the package alone)."""
    return any(
        module == prefix.removesuffix(".")
        or (not prefix.endswith(".") and module.startswith(f"{prefix}."))
        for prefix in prefixes
    )


def row_of(module: str) -> str | None:
    """The row of `LAYERS` that `module` obeys. The facade's row is for `engine` itself only."""
    rows = [row for row in LAYERS if under(module, ("engine." if row == "engine" else row,))]
    return max(rows, key=len, default=None)


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, relative ones resolved, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                depth = node.level - is_package
                parent = module.rsplit(".", depth)[0] if depth else module
                base = f"{parent}.{base}".rstrip(".")
            for alias in node.names:
                # `from engine import config` imports engine.config; `from engine import Engine`
                # imports the facade.
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if is_module(inner) else base


def is_module(name: str) -> bool:
    path = (ROOT / "clients/python" if name.startswith("octavo_client") else ROOT).joinpath(
        *name.split(".")
    )
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def dotted(node: ast.expr) -> str:
    """`torch.load` for that expression; "" for what is not a plain dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def import_violations(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    row = row_of(module)
    if row is None:
        yield f"{module} has no row in LAYERS: give it a place first"
        return
    allowed = LAYERS[row]
    own = "engine." if row == "engine" else row
    for line, name in imports(tree, module, is_package):
        top = name.partition(".")[0]
        if top in UNSAFE_MODULES:
            yield f"{module}:{line} imports {name}, which runs what it reads"
        elif top in {"engine", "server", "octavo_client"}:
            if not under(name, (own, *allowed.ours)):
                yield f"{module}:{line} may not import {name}"
        elif top not in sys.stdlib_module_names and top not in allowed.others:
            yield f"{module}:{line} may not import {name}"


def house_violations(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in UNSAFE_BUILTINS:
                yield f"{module}:{node.lineno} calls {node.func.id}"
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in UNSAFE_CALLS:
                yield f"{module}:{node.lineno} uses {name}"
            if name == "importlib.import_module" and not under(module, LATE_IMPORTS):
                yield f"{module}:{node.lineno} imports by name"
            if name in ENVIRONMENT_READS and not under(module, ENVIRONMENT):
                yield f"{module}:{node.lineno} reads the environment"
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if names & ENVIRONMENT_READS and not under(module, ENVIRONMENT):
                yield f"{module}:{node.lineno} reads the environment"
            yield from (f"{module}:{node.lineno} uses {name}" for name in names & UNSAFE_CALLS)
        elif isinstance(node, ast.Global):
            yield f"{module}:{node.lineno} keeps state in a module"
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Mixin"):
            yield f"{module}:{node.lineno} is a mixin"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            late = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            if late and not under(module, LATE_IMPORTS):
                yield f"{module}:{late[0].lineno} imports inside a function"


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Every rule that `source` breaks as the text of `module`."""
    tree = ast.parse(source, filename=module)
    return [*import_violations(tree, module, is_package), *house_violations(tree, module)]


def production_files() -> list[tuple[str, Path]]:
    """Module name and path of every Python file of ours that users run."""
    found = []
    for base, package in [("", "server"), ("", "engine"), ("clients/python", "octavo_client")]:
        for path in sorted((ROOT / base / package).rglob("*.py")):
            parts = path.relative_to(ROOT / base).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def source_files() -> list[Path]:
    return [
        path
        for folder in SOURCE_FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SOURCE_SUFFIXES
    ]


def test_imports_point_down_and_house_rules_hold() -> None:
    files = production_files()
    assert {"server", "engine", "octavo_client"} <= {module for module, _ in files}
    found = [
        violation
        for module, path in files
        for violation in violations(path.read_text(), module, path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("server.routes", "import torch", "may not import torch"),
        ("server.routes", "import torch.nn.functional as F", "may not import torch.nn.functional"),
        ("server.routes", "from engine.config import EngineConfig", "may not import engine.config"),
        ("server.routes", "from engine import config", "may not import engine.config"),
        ("server.routes", "import octavo_client", "may not import octavo_client"),
        ("server.routes", "def f():\n    from torch import nn", "may not import torch"),
        ("server.routes", "def f():\n    import json", "imports inside a function"),
        ("server.routes", "import os\nos.environ['HOME']", "reads the environment"),
        ("server.routes", "from os import getenv", "reads the environment"),
        ("server.routes", "count = 0\ndef f():\n    global count", "keeps state in a module"),
        ("engine.scheduling.scheduler", "import numpy", "may not import numpy"),
        ("engine.scheduling", "from engine.runner import X", "may not import engine.runner"),
        ("engine.scheduling.turns", "from ..runner import X", "may not import engine.runner"),
        ("engine.request", "from . import core", "may not import engine"),
        ("engine.runner", "from engine.scheduling import X", "may not import engine.scheduling"),
        ("engine.models.llama", "from engine.runner import X", "may not import engine.runner"),
        ("engine.client", "from engine.core import X", "may not import engine.core"),
        ("engine.checkpoint.gguf", "import torch", "may not import torch"),
        ("engine.request", "from engine import Engine", "may not import engine"),
        ("engine.novelty", "", "has no row"),
        ("engine.weights", "import pickle", "runs what it reads"),
        ("engine.weights", "import torch\ntorch.load('x')", "uses torch.load"),
        ("engine.weights", "from torch import load", "uses torch.load"),
        ("engine.weights", "eval('1')", "calls eval"),
        ("engine.weights", "class LoaderMixin: ...", "is a mixin"),
        ("engine.core", "import importlib\nimportlib.import_module('x')", "imports by name"),
        ("octavo_client._client", "import server", "may not import server"),
        ("octavo_client._client", "import click", "may not import click"),
    ],
)
def test_the_checker_sees(module: str, source: str, expected: str) -> None:
    assert any(expected in violation for violation in violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("server.routes", "from engine import Engine\nfrom server import errors\nimport fastapi"),
        ("server.settings", "import os\nos.environ['HOME']"),
        ("engine.scheduling.scheduler", "from engine.batch import Batch\nimport heapq"),
        ("engine.models.llama", "import torch\nmodel = torch.nn.Module()\nmodel.eval()"),
        ("engine.kernels", "def select():\n    from engine.kernels import reference"),
        ("octavo_client._client", "from octavo_client._errors import X\nimport httpx"),
    ],
)
def test_the_checker_lets_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_no_source_file_is_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in source_files()}
    long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_LINES}
    assert lengths
    assert not long


def test_no_file_is_called_utils() -> None:
    assert not [path for path in source_files() if path.stem in {"utils", "util", "helpers"}]


def test_test_files_have_names_of_their_own() -> None:
    tests = list((ROOT / "tests").rglob("*.py"))
    assert not [path for path in tests if path.name == "__init__.py"]
    counts = Counter(path.name for path in tests if path.name != "conftest.py")
    assert not [name for name, count in counts.items() if count > 1]


@pytest.mark.parametrize("package", ["server", "engine", "octavo_client"])
def test_torch_stays_out(package: str) -> None:
    """Importing all of the server, the engine's facade, or all of the client loads no torch."""
    modules = [
        module
        for module, _ in production_files()
        if not module.endswith("__main__") and under(module, (package,))
    ]
    if package == "engine":
        modules = ["engine"]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert package in loaded
    assert not loaded & {"torch", "triton", "transformers"}
    if package == "octavo_client":
        assert not loaded & {"server", "engine", "fastapi", "numpy"}


def test_the_engine_is_started_before_the_web_framework_is_imported() -> None:
    """The framework takes half a second to import; the engine loads torch meanwhile."""
    code = "import sys, server.cli.serve; print(*sys.modules)"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "server.settings" in loaded
    assert not loaded & {"fastapi", "uvicorn", "torch", "tokenizers", "tiktoken", "huggingface_hub"}


def test_the_clock_on_the_wall_decides_nothing() -> None:
    """It may jump. Only what is told to others, or was told by them, is the time of day."""
    dated = {
        "server/services.py",  # `created` of models
        "server/routes/completions.py",  # and of completions
        "server/observe/tracing.py",  # when a span ended
        "clients/python/octavo_client/_envelope.py",  # Retry-After as a date
    }
    found = {
        str(path.relative_to(ROOT))
        for package in ("server", "engine", "clients")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\(", path.read_text())
    }
    assert found == dated
