"""A terminal of our own around a process: what a person at a keyboard sees and types.

Speaks the little that line editors ask of a terminal: it answers where the cursor is.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_SECONDS = 60.0

_ASKS_FOR_CURSOR = b"\x1b[6n"
_CURSOR = b"\x1b[1;1R"
# Control sequences, titles, and single-character escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])")

CTRL_C, CTRL_D, UP, ENTER, ALT_ENTER = "\x03", "\x04", "\x1b[A", "\r", "\x1b\r"


def plain(text: str) -> str:
    """What was written, without colours and movements of the cursor."""
    return _ESCAPES.sub("", text).replace("\r", "")


class Terminal:
    """`written` is all that the process has written, escapes included."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.written = ""
        self._master = master
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = 0  # of the plain text, by `expect`

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def type_until(self, keys: str, pattern: str) -> None:
        """Press the keys again each second until the pattern comes, as people do. Python's input()
        loses an interrupt that comes between its prompt and its reading."""
        for _ in range(int(PATIENCE_SECONDS)):
            self.type(keys)
            with suppress(AssertionError):
                self.expect(pattern, 1.0)
                return
        raise AssertionError(f"no {pattern!r} however often {keys!r} is pressed")

    def expect(self, pattern: str, seconds: float = PATIENCE_SECONDS) -> re.Match[str]:
        """Wait until what was written since the last match has the pattern; the match."""
        end = time.monotonic() + seconds
        while True:
            text = plain(self.written)
            match = re.compile(pattern, re.MULTILINE).search(text, self._seen)
            if match is not None:
                self._seen = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"no {pattern!r} in {text[self._seen :]!r}")

    def wait(self) -> int:
        """The exit status, when the process has ended and all was read."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._read(max(end - time.monotonic(), 0)):
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def _read(self, seconds: float) -> bool:
        """Take in what comes next; False at the end, or after this time."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        for _ in range(data.count(_ASKS_FOR_CURSOR)):
            os.write(self._master, _CURSOR)
        self.written += self._decoder.decode(data)
        return bool(data)


@contextmanager
def terminal(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[Terminal]:
    """The process, whose terminal is ours: Ctrl+C reaches it as from a keyboard."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 100))
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env={"TERM": "xterm-256color", **environment},
        start_new_session=True,
        # Its own terminal, and interrupts as in a shell, whatever the tests were started with.
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(master)


def _take_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
