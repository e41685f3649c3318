"""The instruction sets that the kernels are compiled for ahead of time, and whom they suit.

Those of one architecture, from the slowest to the fastest; each brings something that the code
makes use of. Knows names, nothing of compilers or files.
"""

from __future__ import annotations

from dataclasses import dataclass

# Linux's names for what x86-64-v2 to v4 are (x86-64 psABI, "Micro-Architecture Levels").
_V2 = frozenset(("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"))
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}


@dataclass(frozen=True, slots=True)
class Variant:
    """`name` is what compilers call the architecture, and each extension after a plus sign."""

    name: str
    cpu_flags: frozenset[str]  # what a processor must have, by Linux's names


_X86_64 = (
    Variant("x86-64", frozenset()),
    Variant("x86-64-v3", _V3),
    Variant("x86-64-v3+avxvnni", _V3 | {"avx_vnni"}),
    Variant("x86-64-v4", _V4),
    Variant("x86-64-v4+avx512vnni", _V4 | {"avx512_vnni"}),
    Variant("x86-64-v4+avx512vnni+avx512bf16", _V4 | {"avx512_vnni", "avx512_bf16"}),
)
_ARM64 = (
    Variant("armv8-a", frozenset()),
    Variant("armv8.2-a+dotprod", frozenset({"asimddp"})),
)


def variants(machine: str) -> tuple[Variant, ...]:
    """Those of an architecture, as `platform.machine` calls it; none of one nobody thought of."""
    if machine in ("aarch64", "arm64"):
        return _ARM64
    return _X86_64 if machine in ("x86_64", "AMD64") else ()
