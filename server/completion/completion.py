"""One HTTP request on its way through the engine: outputs of tokens in, pieces of text out.

The stream sends the pieces as they come, the JSON answer is the pieces folded: one code path.
Knows no HTTP. Leaving `async with` ends whatever the engine still does for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from engine import ChoiceOutput, Engine, Failure, FinishReason, OutputStream, Request
from server.completion.choice import Choice, Piece
from server.completion.chunks import Usage
from server.completion.logprobs import Logprobs, prompt_entries
from server.text import StopAutomaton
from server.tokenizer import Tokenizer
from server.wire.errors import ApiError

_ENDS_WITH_TEXT = (None, FinishReason.STOP, FinishReason.LENGTH)


class Completion:
    """All prompts and choices of one HTTP request; choice `prompt * n + k` is number k of a prompt.

    Iterating gives lists of pieces, never empty, at most one piece for each choice. Raises
    EngineDeadError, or ApiError 500 when the engine could not finish a choice.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        requests: list[Request],
        *,
        stop: Sequence[str] = (),
        echo: Sequence[str] | None = None,
    ) -> None:
        """`echo` has the text of each prompt, to be put in front of its choices."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._requests = {request.request_id: request for request in requests}
        self._echo: dict[str, str] = {}
        self._choices: dict[str, list[Choice]] = {}
        self._num_cached: dict[str, int] = {}
        automaton = StopAutomaton(stop) if stop else None
        index = 0
        for position, request in enumerate(requests):
            text = echo[position] if echo is not None else ""
            self._echo[request.request_id] = text
            self._choices[request.request_id] = [
                Choice(
                    index + k,
                    tokenizer,
                    stop=automaton,
                    min_tokens=request.sampling.min_tokens,
                    logprobs=request.sampling.logprobs is not None,
                    prompt_text=text,
                    awaits_prompt_logprobs=request.sampling.prompt_logprobs is not None,
                )
                for k in range(request.n)
            ]
            index += request.n

    @property
    def usage(self) -> Usage:
        """The counts so far; each prompt counts once, however many choices it has."""
        return Usage(
            sum(len(request.prompt_token_ids) for request in self._requests.values()),
            sum(choice.num_tokens for choices in self._choices.values() for choice in choices),
            sum(self._num_cached.values()),
        )

    async def __aenter__(self) -> Self:
        """Hand the requests to the engine. Raises EngineDeadError."""
        self._stream: OutputStream = self._engine.add(list(self._requests.values()))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    def interrupt(self) -> None:
        """Make a wait for the next pieces, if there is one, raise TimeoutError. Loses nothing."""
        self._stream.interrupt()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Piece]:
        while True:
            touched: dict[int, Choice] = {}
            for output in await anext(self._stream):
                for choice in self._take_in(output):
                    touched[choice.index] = choice
            pieces = [piece for choice in touched.values() if (piece := choice.take()) is not None]
            if pieces:
                return pieces

    def _take_in(self, output: ChoiceOutput) -> Sequence[Choice]:
        """Give an output to its choice; returns the choices that may now have something to say."""
        if output.finish_reason not in _ENDS_WITH_TEXT:
            raise _generation_failed(output)
        choices = self._choices[output.request_id]
        choice = choices[output.index]
        if choice.finish_reason is not None:
            return ()  # came together with the token that completed a stop string
        self._num_cached.setdefault(output.request_id, output.num_cached_tokens)
        touched = [choice]
        if output.prompt_logprobs is not None:
            entries = prompt_entries(
                self._tokenizer,
                self._echo[output.request_id],
                self._requests[output.request_id].prompt_token_ids,
                output.prompt_logprobs,
            )
            for sibling in choices:
                sibling.add_prompt_logprobs(entries)
            touched = choices
        choice.add(output)
        if choice.finish_reason is not None and output.finish_reason is None:
            self._stream.abort(output.request_id, output.index)
        return touched


async def fold(completion: Completion) -> list[Piece]:
    """The whole answer: one piece for each choice, in order."""
    folded: dict[int, Piece] = {}
    texts: dict[int, list[str]] = {}
    async with completion:
        async for pieces in completion:
            for piece in pieces:
                whole = folded.setdefault(piece.index, Piece(piece.index, ""))
                texts.setdefault(piece.index, []).append(piece.text)
                whole.finish_reason = piece.finish_reason
                if piece.logprobs is not None:
                    whole.logprobs = whole.logprobs or Logprobs()
                    whole.logprobs.extend(piece.logprobs)
    for index, whole in folded.items():
        whole.text = "".join(texts[index])
    return [folded[index] for index in sorted(folded)]


def _generation_failed(output: ChoiceOutput) -> ApiError:
    failure = output.error or Failure("generation_failed", "The engine ended this request early.")
    return ApiError(
        500,
        failure.message,
        type="server_error",
        code=failure.code,
        headers={"x-should-retry": "false"},
    )
