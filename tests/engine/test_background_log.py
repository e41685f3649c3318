"""Lines reach the log, and nobody waits for its reader."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import time

import pytest

from engine.background_log import MAX_WAITING_LINES, logging_in_background

logger = logging.getLogger("octavo.test")


def test_lines_are_written_in_order_and_as_they_were() -> None:
    stream = io.StringIO()
    parts = ["first"]
    with logging_in_background(stream, "engine: %(message)s"):
        logger.debug("not this one")
        logger.info("%s", parts)
        parts[0] = "changed later"
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("failed")
    logger.info("after the end")
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [
        "engine: ['first']",
        "engine: failed",
        "Traceback (most recent call last):",
    ]
    assert lines[-1] == "ValueError: why"


def test_a_log_that_nobody_reads_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.background_log.LAST_WORDS_SECONDS", 0.2)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    # Not closed at the end of a block: the thread is in the middle of a write until it is read.
    stream = open(writer, "w")  # noqa: SIM115
    started = time.monotonic()
    with logging_in_background(stream, "%(message)s"):
        for _ in range(3 * MAX_WAITING_LINES):
            logger.info("x" * 500)
    assert time.monotonic() - started < 20
    os.close(reader)  # the thread goes on, to an error that it bears
    with pytest.raises(OSError, match="Broken pipe"):
        while True:
            stream.write("y" * 10_000)
    with pytest.raises(OSError, match="Broken pipe"):
        stream.close()


def test_a_full_disk_is_survived() -> None:
    stream = open("/dev/full", "w")  # noqa: SIM115
    with logging_in_background(stream, "%(message)s"):
        for _ in range(100):
            logger.info("x" * 500)
    with pytest.raises(OSError, match="No space"):
        stream.close()
