"""Compiles the C++ kernels, and finds those that are compiled.

Ahead of time for every processor of an architecture (`python -m engine.kernels.cpu`); or on the
first start for the very machine, kept in the cache folder. Linked to the OpenMP runtime that torch
has loaded: one pool of threads serves both. Knows compilers and files, nothing of what the kernels
do.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

from engine.checkpoint.cache import exclusive, scratch_folder
from engine.kernels.cpu.variants import Variant, variants
from engine.processor import cpu_flags

logger = logging.getLogger("octavo.engine")

_SOURCES = Path(__file__).parent
_MAIN = "kernels.cpp"
# Where libraries that were compiled ahead of time are looked for.
COMPILED_AHEAD = _SOURCES / "compiled"
# GCC first: its OpenMP code runs on the runtime that torch brings along.
_COMPILERS = ("g++", "c++", "clang++")
# Contraction is the one liberty with rounding, and the same for every row.
FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-pthread", "-ffp-contract=fast", "-Wno-psabi")
_LIBRARY_FLAGS = ("-fPIC", "-shared", "-Wl,--as-needed")
_OPENMP = re.compile(r"lib(gomp|omp|iomp5)\b.*\.so")
_BUILD_SECONDS = 120
# Whatever this machine's processor has.
NATIVE = "native"


class BuildError(Exception):
    """There are no compiled kernels; the message says why in a few words."""


def load_library(cache_dir: Path, instruction_set: str = NATIVE) -> ctypes.CDLL:
    """The compiled kernels: those compiled ahead of time that suit this processor best. Where there
    are none the cache's, built if it has none for this source, compiler and processor.

    A variant's name as `instruction_set` asks for that one, from the cache.
    """
    runtimes = openmp_runtimes()
    if not runtimes:
        raise BuildError("torch's OpenMP runtime was not found")
    try:
        path = _find_ahead(COMPILED_AHEAD, runtimes[0]) if instruction_set == NATIVE else None
        library = ctypes.CDLL(str(path or _find_or_build(cache_dir, instruction_set, runtimes[0])))
    except OSError as error:
        raise BuildError(f"the C++ kernels cannot be used: {error}") from error
    if len(openmp_runtimes()) > len(runtimes):
        logger.warning("two OpenMP runtimes are loaded: the kernels have threads of their own")
    return library


def compile_ahead(folder: Path, variant: Variant) -> Path:
    """Compile a variant for this architecture into `folder`, whatever is there. The file's path."""
    compiler, runtimes = find_compiler(), openmp_runtimes()
    if compiler is None or not runtimes:
        raise BuildError("no C++ compiler" if runtimes else "torch's OpenMP runtime was not found")
    path = _path_ahead(folder, variant, runtimes[0])
    try:
        _build(_command(compiler, variant.name, runtimes[0]), path)
    except OSError as error:
        raise BuildError(f"{path} cannot be written: {error}") from error
    return path


def machine_options(instruction_set: str, machine: str) -> tuple[str, ...]:
    """A variant's name, or NATIVE, as options of GCC and Clang."""
    if machine in ("aarch64", "arm64"):  # -march takes extensions as they are; "native" is a CPU
        return (f"-{'mcpu' if instruction_set == NATIVE else 'march'}={instruction_set}",)
    architecture, *extensions = instruction_set.split("+")
    return (f"-march={architecture}", *(f"-m{extension}" for extension in extensions))


def openmp_runtimes() -> list[str]:
    """The files of the OpenMP runtimes in this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if "/" in line)
    return [path for path in paths if _OPENMP.match(Path(path).name)]


def find_compiler() -> str | None:
    """The C++ compiler that would be used."""
    return next(filter(None, map(shutil.which, _COMPILERS)), None)


def _command(compiler: str, instruction_set: str, runtime: str) -> list[str]:
    options = machine_options(instruction_set, platform.machine())
    return [compiler, *FLAGS, *_LIBRARY_FLAGS, *options, runtime]


def _find_ahead(folder: Path, runtime: str) -> Path | None:
    """The library in `folder` that is best for this processor, and of these very sources."""
    has = cpu_flags()
    for variant in reversed(variants(platform.machine())):
        path = _path_ahead(folder, variant, runtime)
        if variant.cpu_flags <= has and path.exists():
            return path
    return None


def _path_ahead(folder: Path, variant: Variant, runtime: str) -> Path:
    # Not of the compiler: who loads it may have none, and whoever compiles again overwrites it.
    command = _command("", variant.name, Path(runtime).name)
    return folder / f"{variant.name}-{_digest(*command)}.so"


def _find_or_build(cache_dir: Path, instruction_set: str, runtime: str) -> Path:
    compiler = find_compiler()
    if compiler is None:
        is_stale = instruction_set == NATIVE and any(COMPILED_AHEAD.glob("*.so"))
        stale = f", and none of the kernels in {COMPILED_AHEAD} is of these sources"
        raise BuildError(f"no C++ compiler{stale if is_stale else ''}")
    command = _command(compiler, instruction_set, runtime)
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False)  # noqa: S603
    processor = (platform.machine(), platform.processor(), *sorted(cpu_flags()))
    key = _digest(version.stdout.decode(errors="replace"), *command, *processor)
    path = cache_dir / "kernels" / f"{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.parent, lambda: logger.info("another process builds C++ kernels")):
            if not path.exists():
                _build(command, path)
    return path


def _digest(*parts: str) -> str:
    """Of the sources, and of what else decides what a compiler makes of them."""
    digest = hashlib.blake2b(digest_size=16)
    for source in sorted(_SOURCES.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()


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
                # Its temporary files lie on the cache's disk, and go when this folder does.
                env={**os.environ, "TMPDIR": str(scratch)},
            )
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if "error" in line]
            raise BuildError(f"{compiler} failed: {'; '.join(lines[:1])}") from error
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{compiler} took more than {_BUILD_SECONDS} s") from error
        built.replace(path)
    logger.info("built the C++ kernels in %.1f s: %s", time.monotonic() - started, path)
