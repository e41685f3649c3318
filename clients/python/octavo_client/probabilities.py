"""Tokens as one reads them, each with its probability: painted on a terminal, a table elsewhere.

A token that is no whole character (`bytes:\\xe4`) is joined with those after it. Colours come with
a second cue (underline, bold), and the table does without both.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from octavo_client._types import CompletionChoice, Logprobs
from octavo_client.screen import printable

_BYTES = re.compile(r"bytes:(?=.*\\x)((?:\\x[0-9a-fA-F]{2}|[^\\])+)", re.DOTALL)
_BYTE = re.compile(r"\\x([0-9a-fA-F]{2})|(.)", re.DOTALL)

# From this probability on: the style, and what the legend says. The limits are those of exo's web
# interface (exo-explore/exo, Apache-2.0).
_STEPS = (
    (0.8, "", "80 % and more"),
    (0.5, "cyan", "50 to 80 %"),
    (0.2, "yellow underline", "20 to 50 %"),
    (0.0, "bold red underline", "below 20 %"),
)
_NUM_LEAST_CERTAIN = 3
_TOKEN_WIDTH = 20
_NUM_OTHERS = 3


@dataclass(frozen=True)
class Piece:
    """Whole characters; `logprob` is of all tokens they are made of, None where it has none.

    `others` are the alternatives to the last of these tokens, with their log-probabilities.
    """

    text: str
    logprob: float | None
    others: Mapping[str, float]


class PieceReader:
    """Log-probabilities of one choice in, as they come; pieces out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._logprob: float | None = 0.0

    def read(self, logprobs: Logprobs) -> Iterator[Piece]:
        tables = logprobs.top_logprobs or [None] * len(logprobs.tokens)
        for token, logprob, table in zip(
            logprobs.tokens, logprobs.token_logprobs, tables, strict=False
        ):
            text = self._decoder.decode(_token_bytes(token))
            if self._logprob is not None:
                self._logprob = None if logprob is None else self._logprob + logprob
            if self._decoder.getstate()[0]:
                continue  # a character goes on with the next token
            others = {name: value for name, value in (table or {}).items() if name != token}
            yield Piece(text, self._logprob, others)
            self._logprob = 0.0


def _token_bytes(token: str) -> bytes:
    match = _BYTES.fullmatch(token)
    if match is None:
        return token.encode(errors="replace")
    parts = _BYTE.findall(match[1])
    return b"".join(bytes.fromhex(digits) if digits else char.encode() for digits, char in parts)


class ProbabilityPainter:
    """Writes the tokens of one choice, painted if the console can, as the lines of a table if not.

    Legend and summary go to `notes`.
    """

    def __init__(self, console: Console, notes: Console) -> None:
        self._console = console
        self._notes = notes
        self._reader = PieceReader()
        self._pieces: list[Piece] = []
        self.ends_line = True

    @property
    def has_colour(self) -> bool:
        return self._console.color_system is not None and not self._console.no_color

    def add(self, choice: CompletionChoice) -> None:
        """Write what came of the choice; its text alone where the server tells no more."""
        if choice.logprobs is None:
            if choice.text:
                self._write(Text(printable(choice.text)), end="")
                self.ends_line = choice.text.endswith("\n")
            return
        for piece in self._reader.read(choice.logprobs):
            if self.has_colour:
                self._write(Text(printable(piece.text), style=_style(piece.logprob)), end="")
                self.ends_line = piece.text.endswith("\n")
            else:
                if not self._pieces:
                    self._write(Text(_row("p", "token", "others")))
                self._write(Text(_table_row(piece)))
            self._pieces.append(piece)

    def finish(self) -> None:
        """End the line, and say what the colours mean and where the model was least certain."""
        if not self.ends_line:
            self._console.print()
        drawn = [piece for piece in self._pieces if piece.logprob is not None]
        if not drawn:
            return
        if self.has_colour:
            legend = Text("  ").join(Text(words, style=style) for _, style, words in _STEPS)
            self._notes.print(Text("probability: ") + legend)
        for piece in sorted(drawn, key=_certainty)[:_NUM_LEAST_CERTAIN] if self.has_colour else ():
            self._notes.print(Text(f"  {_table_row(piece).strip()}"))
        perplexity = math.exp(-sum(map(_certainty, drawn)) / len(drawn))
        self._notes.print(Text(f"perplexity {perplexity:.2f} over {len(drawn)} tokens"))

    def _write(self, text: Text, end: str = "\n") -> None:
        self._console.print(text, end=end, soft_wrap=True)


def _certainty(piece: Piece) -> float:
    return 0.0 if piece.logprob is None else piece.logprob


def _style(logprob: float | None) -> str:
    probability = 1.0 if logprob is None else math.exp(logprob)
    return next(style for limit, style, _ in _STEPS if probability >= limit)


def _table_row(piece: Piece) -> str:
    others = sorted(piece.others.items(), key=lambda item: -item[1])[:_NUM_OTHERS]
    words = ", ".join(f"{_quoted(token)} {_percent(value)}" for token, value in others)
    return _row(_percent(piece.logprob), _quoted(piece.text), words)


def _row(probability: str, token: str, others: str) -> str:
    return f"{probability:>7}  {token:<{_TOKEN_WIDTH}}  {others}".rstrip()


def _percent(logprob: float | None) -> str:
    return "-" if logprob is None else f"{math.exp(logprob):.1%}"


def _quoted(text: str) -> str:
    """With spaces and control characters to be seen."""
    return printable(json.dumps(text, ensure_ascii=False))
