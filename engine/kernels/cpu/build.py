"""Compiles the C++ kernels for the machine they run on, once, and keeps them in the cache folder.

Linked to the OpenMP runtime that torch has loaded: one pool of threads serves both. Knows compilers
and files, nothing of what the kernels do.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

from engine.checkpoint.cache import scratch_folder

logger = logging.getLogger("octavo.engine")

_SOURCES = Path(__file__).parent
_MAIN = "kernels.cpp"
# GCC first: its OpenMP code runs on the runtime that torch brings along.
_COMPILERS = ("g++", "c++", "clang++")
# Contraction is the one liberty with rounding, and the same for every row.
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-pthread",
    "-ffp-contract=fast",
    "-Wno-psabi",
)
_OPENMP = re.compile(r"lib(gomp|omp|iomp5)\b.*\.so")
_BUILD_SECONDS = 120
# Whatever this machine's processor has.
NATIVE = "native"


class BuildError(Exception):
    """There are no compiled kernels; the message says why in a few words."""


def load_library(cache_dir: Path, instruction_set: str = NATIVE) -> ctypes.CDLL:
    """The compiled kernels, built if the cache has none for this source, compiler and CPU.

    `instruction_set` is one that the compiler knows by name.
    """
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise BuildError("no C++ compiler")
    runtimes = openmp_runtimes()
    if not runtimes:
        raise BuildError("torch's OpenMP runtime was not found")
    command = [compiler, *_FLAGS, _machine_flag(instruction_set), "-Wl,--as-needed", runtimes[0]]
    path = cache_dir / "kernels" / f"{_key(command)}.so"
    try:
        if not path.exists():
            _build(command, path)
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the C++ kernels cannot be used: {error}") from error
    if len(openmp_runtimes()) > len(runtimes):
        logger.warning("two OpenMP runtimes are loaded: the kernels have threads of their own")
    return library


def openmp_runtimes() -> list[str]:
    """The files of the OpenMP runtimes in this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if "/" in line)
    return [path for path in paths if _OPENMP.match(Path(path).name)]


def _machine_flag(instruction_set: str) -> str:
    option = "mcpu" if platform.machine() in ("aarch64", "arm64") else "march"
    return f"-{option}={instruction_set}"


def _key(command: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for source in sorted(_SOURCES.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False)  # noqa: S603
    digest.update(version.stdout)
    digest.update("\0".join((*command, platform.machine(), _cpu_flags())).encode())
    return digest.hexdigest()


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _build(command: list[str], path: Path) -> None:
    """Compile to `path`, which appears whole or not at all."""
    started = time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent) as scratch:
        built = scratch / path.name
        # The source before the library: the linker takes only what is already asked for.
        compiler, *options, runtime = command
        try:
            subprocess.run(  # noqa: S603
                [compiler, *options, str(_SOURCES / _MAIN), runtime, "-o", str(built)],
                capture_output=True,
                check=True,
                text=True,
                timeout=_BUILD_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if "error" in line]
            raise BuildError(f"{compiler} failed: {'; '.join(lines[:1])}") from error
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{compiler} took more than {_BUILD_SECONDS} s") from error
        built.replace(path)
    logger.info("built the C++ kernels in %.1f s: %s", time.monotonic() - started, path)
