"""Log lines: whole, one to a record, and never mistaken for another."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading

import pytest
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from live_app import live_app

from server import logs
from server.logs import ConsoleFormatter, JsonFormatter, logging_to, one_line
from server.settings import Settings

logger = logging.getLogger("octavo.test")

FORGED = [
    "x\n2026-01-01 00:00:00 ERROR octavo: all is lost",
    "x\r\x1b[2K\x1b[31mred",
    'x"}\n{"event": "request_finished"}',
    "x\u2028y\u2029z\x85",
    "\u202eneves",
    "\x00\x7f\x9b31m",
]


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("octavo", logging.INFO, "", 0, message, None, None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonFormatter()])
def test_a_message_stays_one_line(formatter: logging.Formatter, text: str) -> None:
    line = formatter.format(record(text))
    assert line.splitlines() == [line]
    assert line.isprintable()


@given(st.text())
def test_one_line_is_printable_and_keeps_what_is(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert "\x1b" not in line
    if text.isprintable() and text.isascii():
        assert line == text


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_fields_come_back_as_they_were(fields: dict[str, object]) -> None:
    line = JsonFormatter().format(record("summary", event="request_finished", fields=fields))
    assert line.isascii()
    assert "\n" not in line
    parsed = json.loads(line)
    assert {name: parsed[name] for name in fields} == fields
    if not {"ts", "event"} & fields.keys():
        assert parsed["event"] == "request_finished"
        assert parsed["ts"].endswith("Z")


def test_a_traceback_cannot_start_a_line_of_its_own() -> None:
    try:
        raise ValueError(FORGED[0])
    except ValueError:
        made = logging.LogRecord("octavo", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    first, *others = ConsoleFormatter().format(made).split("\n")
    assert first.endswith("ERROR octavo: failed")
    assert others
    assert all(line.startswith("  | ") for line in others)
    assert json.loads(JsonFormatter().format(made))["traceback"].startswith("Traceback")


@pytest.mark.parametrize("log_format", ["json", "console", "auto"])
def test_where_lines_go(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(log_format, "info"):  # type: ignore[arg-type]
        logger.info("one %s", "two")
        logger.debug("not this one")
    out, err = capsys.readouterr()
    if log_format == "console":  # what is captured is no terminal
        assert out == ""
        assert err.endswith("INFO octavo.test: one two\n")
    else:
        assert err == ""
        [line] = [json.loads(line) for line in out.splitlines()]
        assert (line["level"], line["logger"]) == ("info", "octavo.test")
        assert line["message"] == "one two"


def test_a_log_that_nobody_reads_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(io.StringIO):
        released = threading.Event()

        def write(self, text: str) -> int:
            self.released.wait(60)
            return super().write(text)

    stuck = Stuck()
    monkeypatch.setattr(sys, "stdout", stuck)
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 10)
    monkeypatch.setattr(logs, "LAST_WORDS_SECONDS", 0.1)
    with logging_to("json", "info"):
        for _ in range(1000):
            logger.info("x" * 1000)
    Stuck.released.set()
    assert len(stuck.getvalue().splitlines()) <= 12


LOGGING = """
import logging, sys
from server.logs import logging_to
with logging_to("json", "info"):
    for _ in range(100): logging.getLogger("x").info("y" * int(sys.argv[1]))
print("alive", file=sys.stderr)
"""


@pytest.mark.parametrize("num_characters", [10, 10_000])
@pytest.mark.parametrize("to", ["a full disk", "a pipe without a reader"])
def test_lines_that_cannot_be_written_are_lost_and_nothing_else(
    to: str, num_characters: int
) -> None:
    if to == "a full disk":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-c", LOGGING, str(num_characters)],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        os.close(output)
    assert (run.returncode, run.stderr) == (0, "alive\n")


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_probes_are_not_in_the_access_log(
    level: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # uvicorn turns it off, for good, where there is to be no access log, as in other tests.
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    settings = Settings(log_level=level)
    with logging_to("json", level):
        async with live_app(FakeEngine(), settings) as client:
            for path in ("health", "livez", "readyz", "ping?x=1", "metrics", "v1/models"):
                assert (await client.get(f"/{path}")).status_code == 200
            assert (await client.get("/nowhere?a=%1b[31m%0a2026")).status_code == 404
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    accesses = [line["message"] for line in lines if line.get("logger") == "uvicorn.access"]
    assert len(accesses) == (2 if level == "debug" else 0)
    if accesses:
        assert "GET /v1/models " in accesses[0]
        assert "GET /nowhere?a=" in accesses[1]
        assert accesses[1].isprintable()


def test_handlers_go_as_they_came() -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    with logging_to("json", "debug"):
        pass
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
