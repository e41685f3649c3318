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
# Nothing of the project's world or of the user's accounts may leak in.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name != "PYTHONPATH" and not name.startswith(("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "HF_"))
}


@dataclass(frozen=True)
class ClientEnvironment:
    """What the file `requirements` lists, installed below `home`.

    With `borrows` it also finds what this interpreter has installed, after its own packages:
    torch and transformers are gigabytes that need not be there twice.
    """

    requirements: Path
    borrows: bool = False
    home: Path = ROOT / ".venv" / "clients"

    @property
    def name(self) -> str:
        return self.requirements.stem

    def python(self) -> Path:
        """The interpreter; the environment is made if need be. Raises RuntimeError if it cannot be.

        An environment without its stamp was interrupted in the making, and is made anew.
        """
        constraints = _installed_here() if self.borrows else ""
        parts = [sys.version, sys.prefix, self.requirements.read_text(), constraints]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        folder = self.home / f"{self.name}-{digest}"
        with _locked(self.home / f"{self.name}.lock"):
            if not (folder / ".complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                self._make(folder, constraints)
                (folder / ".complete").touch()
        return folder / "bin" / "python"

    def _make(self, folder: Path, constraints: str) -> None:
        venv.create(folder, symlinks=True)
        options = ["--quiet", "--disable-pip-version-check", "-r", self.requirements]
        if self.borrows:
            (folder / "constraints.txt").write_text(constraints)
            options += ["-c", folder / "constraints.txt"]
            (site_packages,) = folder.glob("lib/python*/site-packages")
            (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
        command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
        result = subprocess.run(
            [*command, *options], capture_output=True, text=True, env=CLEAN, cwd=folder
        )
        if result.returncode != 0:
            raise RuntimeError(
                f"the environment for {self.name} could not be made; pip says:\n"
                f"{result.stderr[-3000:]}"
            )


OPENAI_3 = ClientEnvironment(REQUIREMENTS / "openai-3.txt")
OPENAI_028 = ClientEnvironment(REQUIREMENTS / "openai-0.28.txt")
LLAMA_INDEX = ClientEnvironment(REQUIREMENTS / "llama-index.txt")
SCHEMATHESIS = ClientEnvironment(REQUIREMENTS / "schemathesis.txt")
LM_EVAL = ClientEnvironment(REQUIREMENTS / "lm-eval.txt", borrows=True)


def _installed_here() -> str:
    """What pip has to keep to, so that borrowed packages find the versions that they need."""
    found = {dist.metadata["Name"]: dist.version for dist in distributions()}
    return "\n".join(sorted(f"{name}=={version}" for name, version in found.items()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs of the tests may want the same environment at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
