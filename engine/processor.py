"""What this machine's processor can do, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_KEYS = ("flags", "Features")  # x86, arm64


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The instructions that every core has and the system lets programs use, by Linux's names.

    Empty where it does not say.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    fields = (line.partition(":") for line in lines)
    cores = [frozenset(value.split()) for key, _, value in fields if key.strip() in _KEYS]
    return frozenset.intersection(*cores) if cores else frozenset()
