"""Building the C++ kernels: ahead of time or once per machine, whole or not at all, and doing
without them.
"""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.kernels import select
from engine.kernels.cpu import BuildError
from engine.kernels.cpu.__main__ import main as compile_command
from engine.kernels.cpu.build import compile_ahead, load_library
from engine.kernels.cpu.variants import Variant, variants
from engine.processor import cpu_flags

CPU = torch.device("cpu")
LOG = "octavo.engine"
VARIANTS = variants(platform.machine())
# A compiler that writes a file which is no library.
NONSENSE = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n'


@pytest.fixture(autouse=True)
def ahead_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries compiled ahead of time are looked for; there are none."""
    folder = tmp_path / "ahead"
    monkeypatch.setattr("engine.kernels.cpu.build.COMPILED_AHEAD", folder)
    return folder


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def libraries(cache_dir: Path) -> list[Path]:
    """All that lies there, but the lock."""
    return [path for path in (cache_dir / "kernels").iterdir() if path.name != ".lock"]


def test_built_once_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")  # a compiler that refuses our source is a failure
    select(CPU, torch.bfloat16, "cpu", tmp_path)
    (built,) = libraries(tmp_path)
    [message] = caplog.messages
    assert str(built) in message
    before = built.stat()
    caplog.clear()
    assert select(CPU, torch.float32, cache_dir=tmp_path).describe().startswith("C++ (")
    assert [path.stat().st_ino for path in libraries(tmp_path)] == [before.st_ino]
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
    assert libraries(tmp_path) == []


def test_what_a_killed_compiler_left_is_removed(tmp_path: Path, path_folder: Path) -> None:
    """Its own temporary files lie there too, and not where nobody looks."""
    left = tmp_path / "kernels" / ".tmp-left"
    left.mkdir(parents=True)
    (left / "half.so").write_bytes(b"half")
    compiler = path_folder / "g++"
    compiler.write_text(f'#!/bin/sh\necho "$TMPDIR" > "{tmp_path}/place"\nexit 1\n')
    compiler.chmod(0o755)
    select(CPU, torch.float32, cache_dir=tmp_path)
    assert (tmp_path / "place").read_text().startswith(f"{tmp_path}/kernels/.tmp-")
    assert libraries(tmp_path) == []


def test_a_library_that_cannot_be_loaded(tmp_path: Path, path_folder: Path) -> None:
    compiler = path_folder / "g++"
    compiler.write_text(NONSENSE)
    compiler.chmod(0o755)
    assert "cannot be used" in select(CPU, torch.float32, cache_dir=tmp_path).describe()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("in the way")
    kernels = select(CPU, torch.float32, cache_dir=tmp_path)
    assert kernels.describe().startswith("plain torch (")


def best_variant() -> Variant:
    return [variant for variant in VARIANTS if variant.cpu_flags <= cpu_flags()][-1]


@pytest.fixture
def compiled_nonsense(ahead_folder: Path, path_folder: Path) -> dict[str, Path]:
    """Every variant's file as the compiler leaves it, by its name; no library, so that loading one
    fails and tells which. Afterwards there is no compiler.
    """
    if not VARIANTS:
        pytest.skip(f"no instruction sets are known for {platform.machine()}")
    compiler = path_folder / "g++"
    compiler.write_text(NONSENSE)
    compiler.chmod(0o755)
    paths = {variant.name: compile_ahead(ahead_folder, variant) for variant in VARIANTS}
    compiler.unlink()
    assert set(ahead_folder.iterdir()) == set(paths.values())
    return paths


def test_compiled_ahead_nothing_is_compiled_at_the_start(
    tmp_path: Path, ahead_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")
    variant = best_variant()
    compile_ahead(ahead_folder, variant)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    kernels = select(CPU, torch.float32, "cpu", tmp_path)
    x, weight = torch.randn(2, 64), torch.randn(64)
    expected = select(CPU, torch.float32, "reference").rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5), expected)
    assert kernels.describe().startswith("C++ (")
    assert not (tmp_path / "kernels").exists()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other names elsewhere")
@pytest.mark.parametrize(
    ("better", "chosen"),
    [
        (set(), "x86-64"),
        ({"avx512f"}, "x86-64"),
        ({"x86-64-v3"}, "x86-64-v3"),
        ({"x86-64-v3", "avx_vnni"}, "x86-64-v3+avxvnni"),
        ({"x86-64-v4"}, "x86-64-v4"),
        ({"x86-64-v4", "avx_vnni"}, "x86-64-v4"),
        ({"x86-64-v4", "avx512_vnni"}, "x86-64-v4+avx512vnni"),
        ({"x86-64-v4", "avx512_vnni", "avx512_bf16"}, "x86-64-v4+avx512vnni+avx512bf16"),
    ],
)
def test_the_best_that_this_processor_can_run(
    tmp_path: Path,
    compiled_nonsense: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    better: set[str],
    chosen: str,
) -> None:
    levels = {variant.name: variant.cpu_flags for variant in VARIANTS}
    flags = frozenset().union(*(levels.get(name, {name}) for name in better))
    monkeypatch.setattr("engine.kernels.cpu.build.cpu_flags", lambda: flags | {"sse2"})
    with pytest.raises(BuildError) as raised:
        load_library(tmp_path)
    assert f"{compiled_nonsense[chosen]}: " in str(raised.value)


def test_a_variant_that_is_not_there_is_done_without(
    tmp_path: Path, compiled_nonsense: dict[str, Path]
) -> None:
    best = best_variant()
    compiled_nonsense[best.name].unlink()
    if best is VARIANTS[0]:
        pytest.skip("this processor runs one variant only")
    with pytest.raises(BuildError, match="cannot be used") as raised:
        load_library(tmp_path)
    assert best.name not in str(raised.value)


def test_what_was_compiled_from_other_sources_is_not_used(
    tmp_path: Path, compiled_nonsense: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "kernels.cpp").write_text("// the next release")
    monkeypatch.setattr("engine.kernels.cpu.build._SOURCES", sources)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler, and none of .* is of these sources"):
        load_library(tmp_path)


def test_the_command_compiles_every_variant(
    tmp_path: Path,
    path_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-m", "engine.kernels.cpu", str(tmp_path / "libraries")]
    monkeypatch.setattr(sys, "argv", command[2:])
    assert compile_command() == 1  # in this process: another one loads torch for seconds
    assert capsys.readouterr().err == "no C++ compiler\n"
    compiler = path_folder / "g++"
    compiler.write_text(NONSENSE)
    compiler.chmod(0o755)
    compiled = subprocess.run(command, capture_output=True, text=True, check=True)
    paths = [Path(line) for line in compiled.stdout.splitlines()]
    assert sorted(paths) == sorted((tmp_path / "libraries").iterdir())
    for path, variant in zip(paths, VARIANTS, strict=True):
        assert path.name.startswith(f"{variant.name}-")
        assert path.read_text() == "nonsense\n"


def test_flags_are_those_that_every_core_has(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nflags\t\t: sse2 avx2 avx512f\nbugs\t\t: none avx2\n\n"
        "processor\t: 1\nflags\t\t: sse2 avx2\n"
    )
    assert cpu_flags(cpuinfo) == {"sse2", "avx2"}
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert cpu_flags(cpuinfo) == {"fp", "asimd", "asimddp"}
    assert cpu_flags(tmp_path / "nothing") == frozenset()
