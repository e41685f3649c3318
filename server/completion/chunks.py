"""Answers as JSON text: the events of a stream and the one body, from the same pieces.

Written from a prebuilt template, because this runs for every token; `schemas.py` documents the
shape. ASCII only: some clients split lines at every Unicode line break.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

import msgspec

from server.completion.choice import Piece, PieceExtras
from server.completion.logprobs import Logprobs

DONE = "data: [DONE]\n\n"
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_FINISH = {None: "null", "stop": '"stop"', "length": '"length"'}


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one HTTP request, over all its prompts and choices."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int

    def json(self) -> str:
        total = self.num_prompt_tokens + self.num_completion_tokens
        return (
            f'{{"prompt_tokens":{self.num_prompt_tokens},'
            f'"completion_tokens":{self.num_completion_tokens},"total_tokens":{total},'
            f'"prompt_tokens_details":{{"cached_tokens":{self.num_cached_tokens}}}}}'
        )


class ChunkWriter:
    """Writes the answer of one HTTP request; `usage` arguments are JSON text or None for no key."""

    def __init__(self, completion_id: str, created: int, model: str, fingerprint: str) -> None:
        self._head = (
            f'{{"id":{json.dumps(completion_id)},"object":"text_completion","created":{created},'
            f'"model":{json.dumps(model)},"system_fingerprint":{json.dumps(fingerprint)},'
            '"choices":['
        )

    def event(self, piece: Piece, usage: str | None = None) -> str:
        """One SSE event for one piece."""
        return f"data: {self._head}{_choice(piece)}]{_usage(usage)}}}\n\n"

    def usage_event(self, usage: str) -> str:
        """The event before `[DONE]`, when usage was asked for."""
        return f"data: {self._head}]{_usage(usage)}}}\n\n"

    def body(self, pieces: Iterable[Piece], usage: str) -> str:
        """The whole answer; one finished piece for each choice, in order."""
        return f"{self._head}{','.join(map(_choice, pieces))}]{_usage(usage)}}}"


def _choice(piece: Piece) -> str:
    logprobs = "null" if piece.logprobs is None else _json(piece.logprobs)
    extras = "" if piece.extras is None else _members(piece.extras)
    return (
        f'{{"text":{encode_basestring_ascii(piece.text)},"index":{piece.index},"logprobs":{logprobs},'
        f'"finish_reason":{_FINISH[piece.finish_reason]}{extras}}}'
    )


def _members(extras: PieceExtras) -> str:
    """The members of an object, to follow others."""
    inner = _json(extras)[1:-1]
    return f",{inner}" if inner else ""


def _json(value: Logprobs | PieceExtras) -> str:
    text = msgspec.json.encode(value).decode()
    # Outside of strings JSON is ASCII already, so what is not stands where an escape may stand.
    return text if text.isascii() else _NOT_ASCII.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return encode_basestring_ascii(match[0])[1:-1]


def _usage(usage: str | None) -> str:
    return "" if usage is None else f',"usage":{usage}'
