"""The forms in which `octavo complete` prints: text, JSON lines, tokens with probabilities.

A printer takes whole answers and the chunks of a stream alike. It knows no server.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

import click

from octavo_client._types import Completion, CompletionChoice
from octavo_client.screen import printable

if TYPE_CHECKING:
    from octavo_client.probabilities import ProbabilityPainter


class Printer(Protocol):
    def add(self, part: Completion) -> None:
        """Print an answer, or a chunk."""

    def finish(self) -> None:
        """After the last one; also before the line of an error, which must not be glued to it."""


class JsonPrinter:
    """The server's JSON, one object a line."""

    def add(self, part: Completion) -> None:
        click.echo(part.model_dump_json(exclude_unset=True))

    def finish(self) -> None:
        pass


class TextPrinter:
    """The text as it comes; several choices of a whole answer one after the other."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._ends_line = True

    def add(self, part: Completion) -> None:
        for choice in part.choices:
            write_heading(part, choice)
            text = printable(choice.text) if self._is_terminal else choice.text
            if text:  # noted first: an interrupt may come right after the write
                self._ends_line = text.endswith("\n")
            click.echo(text, nl=False, color=True)  # or click drops what looks like a colour
            if len(part.choices) > 1:
                self.finish()

    def finish(self) -> None:
        if not self._ends_line:
            self._ends_line = True
            click.echo()


class ProbabilityPrinter:
    """Each token with its probability; see `probabilities.py`."""

    def __init__(self) -> None:
        self._painter: ProbabilityPainter | None = None

    def add(self, part: Completion) -> None:
        for choice in part.choices:
            write_heading(part, choice)
            if self._painter is None:
                self._painter = _new_painter()
            self._painter.add(choice)
            if len(part.choices) > 1:
                self.finish()

    def finish(self) -> None:
        if self._painter is not None:
            self._painter.finish()
            self._painter = None


def write_heading(part: Completion, choice: CompletionChoice) -> None:
    """Which of several choices follows."""
    if len(part.choices) > 1:
        click.echo(f"--- {choice.index + 1} of {len(part.choices)} ---")


def _new_painter() -> ProbabilityPainter:
    # rich takes long to import: only for those who want it.
    from rich.console import Console

    from octavo_client.probabilities import ProbabilityPainter

    return ProbabilityPainter(
        Console(highlight=False), Console(stderr=True, highlight=False, soft_wrap=True)
    )
