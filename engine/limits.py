"""What this process may take of the machine: CPUs and memory, the cgroup's limits included."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and the cgroup's quota rounded down."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [_cpu_quota(folder) for folder in _cgroup_folders("cpu")]
    return max(1, int(min([float(cpus or 1), *quotas])))


def available_memory() -> int:
    """Bytes of main memory that this process can still take: the system's, and the cgroup's."""
    limits = [_meminfo("MemAvailable") or _physical_memory()]
    for folder in _cgroup_folders("memory"):
        limit = _read_int(folder / "memory.max") or _read_int(folder / "memory.limit_in_bytes")
        used = _read_int(folder / "memory.current") or _read_int(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            # File pages that nobody uses count as used, but are given back on demand.
            limits.append(max(0, limit - used + _inactive_file(folder)))
    return min(limits)


def total_memory() -> int:
    """Bytes of main memory that this process could ever take."""
    limits = [_meminfo("MemTotal") or _physical_memory()]
    for folder in _cgroup_folders("memory"):
        limit = _read_int(folder / "memory.max") or _read_int(folder / "memory.limit_in_bytes")
        limits += [] if limit is None else [limit]
    return min(limits)


def _cgroup_folders(controller: str) -> list[Path]:
    """The cgroup of this process and its parents, for version 2 and version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUP_ROOT / controller if controllers else _CGROUP_ROOT
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return folders


def _cpu_quota(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        quota = str(_read_int(folder / "cpu.cfs_quota_us") or "max")
        period = str(_read_int(folder / "cpu.cfs_period_us") or 1)
    return float("inf") if quota in ("max", "-1") else int(quota) / int(period)


def _meminfo(name: str) -> int | None:
    """Bytes, by the name that Linux has for them."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _physical_memory() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _inactive_file(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
