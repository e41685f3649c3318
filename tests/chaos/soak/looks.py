"""What a process holds on to: looked at from the inside in quiet moments, and compared.

A process that calls `answer_signals` writes what it has into a file when it gets SIGUSR1. What the
system says of memory is coarse, so Python's own allocations are counted too: one small object that
is kept of each request shows. Linux only, as is /proc.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fake_runner import forget_candidates

MOST_GROWTH = 8 * 2**20  # bytes, of what the allocators keep for later
# Free lists, tables that were doubled, the last answers: some hundred, however long it
# takes. What is kept of each request is one for each at least.
MOST_ALLOCATIONS = 1000
MOST_ALLOCATIONS_EACH = 0.1
LONGEST_LOOK = 60.0  # seconds that a process may take to answer the signal


@dataclass(frozen=True)
class Look:
    """`memory` in bytes; `num_allocations` are Python's, small and large; `kinds` counts the
    objects that the garbage collector knows by type. `state` is what the process tells besides."""

    memory: int
    num_files: int
    num_allocations: int
    num_tasks: int
    threads: list[str]
    kinds: dict[str, int]
    state: dict[str, float] = field(default_factory=dict)


def look_inside(state: Callable[[], dict[str, float]] = dict) -> Look:
    """What this process has, caches of the tests' own apart."""
    forget_candidates()
    gc.collect()
    num_allocations = sys.getallocatedblocks()
    try:
        num_tasks = len(asyncio.all_tasks())
    except RuntimeError:  # no event loop
        num_tasks = 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
        num_files=len(os.listdir("/proc/self/fd")),
        num_allocations=num_allocations,
        num_tasks=num_tasks,
        threads=sorted(thread.name for thread in threading.enumerate()),
        kinds=dict(Counter(type(thing).__name__ for thing in gc.get_objects())),
        state=state(),
    )


def answer_signals(folder: Path, state: Callable[[], dict[str, float]] = dict) -> None:
    """Have `look_from_outside` find what this process has, in `folder`."""

    def answer(signum: int, frame: object) -> None:
        path = _path(folder, os.getpid())
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(asdict(look_inside(state))))
        partial.replace(path)

    signal.signal(signal.SIGUSR1, answer)


async def look_from_outside(pid: int, folder: Path) -> Look:
    """What process `pid` has, which answers signals. Raises TimeoutError."""
    path = _path(folder, pid)
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    async with asyncio.timeout(LONGEST_LOOK):
        while not path.exists():  # noqa: ASYNC110 - the other side can only write a file
            await asyncio.sleep(0.01)
    return Look(**json.loads(path.read_text()))


def _path(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.look"


@dataclass(frozen=True)
class Growth:
    """From a quiet moment to a later one, with `num_requests` between them."""

    name: str
    before: Look
    after: Look
    num_requests: int

    @property
    def num_bytes(self) -> int:
        return self.after.memory - self.before.memory

    @property
    def num_allocations(self) -> int:
        return self.after.num_allocations - self.before.num_allocations

    def check(self) -> None:
        """Raises AssertionError where something was kept of the requests."""
        before, after = self.before, self.after
        assert after.num_files == before.num_files, self._say("descriptors were left open")
        assert after.num_tasks == before.num_tasks, self._say("tasks were left running")
        others = [
            [name for name in look.threads if not name.startswith("text_")]
            for look in (before, after)
        ]
        assert others[0] == others[1], self._say(f"other threads: {after.threads}")
        bound = MOST_ALLOCATIONS + self.num_requests * MOST_ALLOCATIONS_EACH
        assert self.num_allocations < bound, self._say(f"more than {bound:.0f} objects were kept")
        assert self.num_bytes < MOST_GROWTH, self._say("memory grew")

    def __str__(self) -> str:
        return (
            f"{self.name} {self.num_bytes / 2**20:+.1f} MiB, {self.num_allocations:+d} objects, "
            f"{self.after.num_files - self.before.num_files:+d} descriptors, "
            f"{self.after.num_tasks - self.before.num_tasks:+d} tasks"
        )

    def _say(self, what: str) -> str:
        more = Counter(self.after.kinds)
        more.subtract(self.before.kinds)
        return f"{what}: {self}, {self.num_requests} requests; mostly {more.most_common(8)}"
