"""Other people's clients, each in a virtual environment of its own.

An environment is made from exact requirements on first use and kept in `.venv/clients`, which
`make clean` removes. Its name holds a hash of all that it is made from, so it never goes stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from serve_process import ROOT

REQUIREMENTS = ROOT / "tests" / "outside" / "requirements"
ENVIRONMENTS = ROOT / ".venv" / "clients"
# Nothing of the project's world or of the user's accounts may leak in.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name != "PYTHONPATH" and not name.startswith(("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "HF_"))
}


@dataclass(frozen=True)
class ClientEnvironment:
    """The requirements of `tests/outside/requirements/NAME.txt`, installed.

    With `borrows` it also finds what this interpreter has installed, after its own packages:
    torch and transformers are gigabytes that need not be there twice.
    """

    name: str
    borrows: bool = False

    def python(self) -> Path:
        """The interpreter; the environment is made if need be. Raises RuntimeError if it cannot be.

        An environment without its stamp was interrupted in the making, and is made anew.
        """
        requirements = (REQUIREMENTS / f"{self.name}.txt").read_text()
        constraints = _installed_here() if self.borrows else ""
        source = "\n".join([sys.version, sys.prefix, requirements, constraints])
        folder = ENVIRONMENTS / f"{self.name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        with _locked(folder.with_suffix(".lock")):
            if not (folder / ".complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                self._make(folder, constraints)
                (folder / ".complete").touch()
        return folder / "bin" / "python"

    def _make(self, folder: Path, constraints: str) -> None:
        venv.create(folder, symlinks=True)
        options = ["--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS / f"{self.name}.txt"]
        if self.borrows:
            (folder / "constraints.txt").write_text(constraints)
            options += ["-c", folder / "constraints.txt"]
            python = f"python{sys.version_info.major}.{sys.version_info.minor}"
            behind = folder / "lib" / python / "site-packages" / "borrowed.pth"
            behind.write_text(sysconfig.get_path("purelib"))
        command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
        result = subprocess.run(
            [*command, *options], capture_output=True, text=True, env=CLEAN, cwd=folder
        )
        if result.returncode != 0:
            raise RuntimeError(
                f"the environment for {self.name} could not be made; pip says:\n"
                f"{result.stderr[-3000:]}"
            )


OPENAI_3 = ClientEnvironment("openai-3")
OPENAI_028 = ClientEnvironment("openai-0.28")
LLAMA_INDEX = ClientEnvironment("llama-index")
LM_EVAL = ClientEnvironment("lm-eval", borrows=True)


def _installed_here() -> str:
    """What pip must not choose another version of, so that borrowed packages find what they need."""
    found = {dist.metadata["Name"]: dist.version for dist in distributions()}
    return "\n".join(sorted(f"{name}=={version}" for name, version in found.items()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs of the tests may want the same environment at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
