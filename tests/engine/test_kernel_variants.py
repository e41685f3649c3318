"""Every variant of the C++ kernels compiles, and where something can run it its numbers are right.

`kernel_parity.cpp` is a program: this processor runs it or, for another architecture, qemu.
Without a cross compiler (Debian: g++-aarch64-linux-gnu, qemu-user) the other one is skipped.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.kernels import cpu
from engine.kernels.cpu.build import FLAGS, machine_options
from engine.kernels.cpu.variants import Variant, variants
from engine.processor import cpu_flags

SOURCES = Path(cpu.__file__).parent
PARITY = Path(__file__).with_name("kernel_parity.cpp")
MACHINES = {"x86_64": 62, "aarch64": 183}  # their numbers in ELF files
CASES = [(machine, variant) for machine in MACHINES for variant in variants(machine)]
# What the program says of itself: its instructions, and what multiplies quantized weights.
INSTRUCTIONS = {
    "x86-64": "SSE2; dot products: ",
    "x86-64-v3": "AVX2; dot products: AVX2",
    "x86-64-v3+avxvnni": "AVX2; dot products: AVX-VNNI",
    "x86-64-v4": "AVX-512; dot products: AVX-512",
    "x86-64-v4+avx512vnni": "AVX-512; dot products: AVX-512 VNNI",
    "x86-64-v4+avx512vnni+avx512bf16": "AVX-512 BF16; dot products: AVX-512 VNNI",
    "armv8-a": "NEON; dot products: ",
    "armv8.2-a+dotprod": "NEON; dot products: NEON",
}
# They compile for seconds, and qemu is slow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Program:
    path: Path
    machine: str
    variant: Variant

    def runner(self) -> list[str] | None:
        """What to put in front of the program's path, or None if nothing here runs it."""
        if self.machine == platform.machine():
            return [] if self.variant.cpu_flags <= cpu_flags() else None
        qemu = shutil.which(f"qemu-{self.machine}")
        return None if qemu is None else [qemu]


@pytest.fixture(
    scope="module", params=CASES, ids=[f"{machine}-{variant.name}" for machine, variant in CASES]
)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    machine, variant = request.param
    is_native = machine == platform.machine()
    compiler = shutil.which("g++" if is_native else f"{machine}-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no C++ compiler" if is_native else f"no C++ compiler for {machine}")
    path = tmp_path_factory.mktemp("parity") / variant.name
    # -O3 takes twice as long, and what is vectors here is in the source.
    options = [*FLAGS, "-O1", *machine_options(variant.name, machine), f"-I{SOURCES}"]
    # Static: qemu then needs no libraries of the other architecture.
    linked = [] if is_native else ["-static"]
    compiled = subprocess.run(
        [compiler, *options, *linked, str(PARITY), "-o", str(path)], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    return Program(path, machine, variant)


def test_every_variant_compiles(program: Program) -> None:
    header = program.path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert header[18] == MACHINES[program.machine]


def test_every_kernel_computes_what_it_should(program: Program) -> None:
    runner = program.runner()
    if runner is None:
        pytest.skip("nothing here runs these instructions")
    ran = subprocess.run([*runner, str(program.path)], capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines() == [INSTRUCTIONS[program.variant.name]]


def test_variants_are_sorted_by_what_they_need() -> None:
    """The loader takes the last one that this processor can run."""
    for machine in MACHINES:
        needs = [variant.cpu_flags for variant in variants(machine)]
        assert needs[0] == frozenset()
        for i, better in enumerate(needs):
            assert not any(better < worse for worse in needs[:i])
    assert variants("riscv64") == ()
