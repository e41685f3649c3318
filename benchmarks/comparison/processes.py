"""A server as a process group of its own, and what all its processes together hold in memory.

Whatever ends the measurement, Ctrl+C included, also ends every process that the server started:
its group, and children that made groups of their own. Reads /proc, so Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_TIMEOUT = 30.0


class ServerError(Exception):
    """The server cannot be measured; one line that says why."""


class ServerProcess:
    """A command that runs. Its output goes to `log`."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab") as output:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def has_ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds: connections are lost a little earlier."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.is_alive

    def memory_bytes(self) -> tuple[int, int]:
        """Of the whole tree: the sums of PSS, where a page that several processes share counts
        once, and of RSS, where it counts for each of them."""
        members = [resident_bytes(pid) for pid in descendants(self._process.pid)]
        return sum(pss for pss, _ in members), sum(rss for _, rss in members)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for whatever is left of the tree; then all of it is gone."""
        family = descendants(self._process.pid)
        if self.is_alive:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        # The group may outlive its leader, and members may have gone to groups of their own.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in family - {self._process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(map(is_running, family)) and time.monotonic() < deadline:
            time.sleep(0.01)  # the next server wants the memory and the cores


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[ServerProcess]:
    """The process for as long as it is needed. Raises ServerError if it cannot be started."""
    try:
        process = ServerProcess(command, environment, folder, log)
    except OSError as error:
        raise ServerError(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        process.stop()


def descendants(pid: int) -> set[int]:
    """`pid` and all processes below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                # "pid (name) state ppid ...", and the name may hold anything.
                stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                children.setdefault(int(stat[1]), []).append(int(folder.name))
    family: set[int] = set()
    waiting = [pid]
    while waiting:
        family.add(member := waiting.pop())
        waiting.extend(children.get(member, []))
    return family


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and is not waited for is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def resident_bytes(pid: int) -> tuple[int, int]:
    """What a process holds in memory: its share of it (PSS) and all it sees (RSS); 0 if it ended.

    Processes outside of the tree count in the share too: other programs with the same libraries.
    """
    sizes = {"Pss": 0, "Rss": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) * 1024
    return sizes["Pss"], sizes["Rss"]
