"""One answer of the server, read while it streams in: when its tokens came and how many.

The definitions are those of `vllm bench serve`: only events with choices count, and the tokens are
those of `usage` where the server sends it. An answer without its end mark has failed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import httpx

from octavo_client._envelope import status_error
from octavo_client._sse import SSEDecoder

_MAX_ERROR_BYTES = 16 * 1024


class AnswerError(Exception):
    """The answer is not a whole completion; one line that says why."""


@dataclass
class Answer:
    """What came of one request. Times are `time.perf_counter()` seconds.

    `arrivals` has the time of each event with choices. Token counts are the server's, else None.
    """

    max_tokens: int
    started: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    error: str | None = None


class AnswerReader:
    """Fills in an `Answer` from the pieces of its body. Does no input or output."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._decoder = SSEDecoder()
        self._error_body = b""
        self._status = 200
        self._is_whole = False

    def feed(self, status: int, piece: bytes) -> None:
        """Take in a piece that has just come. Raises AnswerError."""
        now = time.perf_counter()
        if status != 200:
            self._status = status
            self._error_body = (self._error_body + piece)[:_MAX_ERROR_BYTES]
            return
        answer = self._answer
        for event in self._decoder.feed(piece):
            if event.data == "[DONE]":
                self._is_whole = True
                return
            try:
                chunk = json.loads(event.data)
                if "error" in chunk:
                    raise AnswerError(f"error in the stream: {_message(chunk['error'])}")
                if chunk["choices"]:
                    answer.arrivals.append(now)
                usage = chunk.get("usage")
                if usage is not None:
                    answer.num_prompt_tokens = int(usage["prompt_tokens"])
                    answer.num_output_tokens = int(usage["completion_tokens"])
            except (ValueError, KeyError, TypeError) as error:
                raise AnswerError(f"not a completion: {event.data[:100]!r}") from error

    def finish(self) -> None:
        """The body has ended. Raises AnswerError if the answer is not whole."""
        if self._status != 200:
            request = httpx.Request("POST", "http://server")
            response = httpx.Response(self._status, content=self._error_body, request=request)
            raise AnswerError(f"HTTP {self._status}: {status_error(response)}")
        if not self._is_whole:
            raise AnswerError("the stream ended without its end mark [DONE]")
        if not self._answer.arrivals:
            raise AnswerError("the stream had no choices")


def _message(error: object) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
