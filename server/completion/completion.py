"""One HTTP request on its way through the engine: outputs of tokens in, pieces of text out.

The stream sends the pieces as they come, `fold.py` makes the JSON answer of them: one code path.
Knows no HTTP. Leaving `async with` ends whatever the engine still does for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from engine import (
    ChoiceOutput,
    Engine,
    Failure,
    FinishReason,
    OutputStream,
    Request,
    TokenLogprobs,
)
from server.completion.choice import Choice, ChoiceFormat, Piece
from server.completion.chunks import Usage
from server.completion.logprobs import PromptTable, prompt_entries, prompt_table
from server.observe.record import CompletionRecord
from server.request_queue import Ticket
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
        shown: ChoiceFormat,
        *,
        num_returned: int,
        echo: Sequence[str],
        ticket: Ticket,
        record: CompletionRecord,
    ) -> None:
        """`num_returned` of the choices of each prompt are for the answer. `echo` has the text of
        each prompt to be put in front of its choices, or "". `ticket` is closed at the end,
        `record` is told what comes."""
        self.num_returned = num_returned
        self.ticket = ticket
        self._record = record
        self._engine = engine
        self._tokenizer = tokenizer
        self._format = shown
        self._requests = {request.request_id: request for request in requests}
        self._echo = {
            request.request_id: text for request, text in zip(requests, echo, strict=True)
        }
        self._choices: dict[str, list[Choice]] = {}
        self._num_cached: dict[str, int] = {}
        self._prompt_tables: dict[str, PromptTable] = {}
        index = 0
        for request_id, request in self._requests.items():
            self._choices[request_id] = [
                Choice(
                    index + k,
                    tokenizer,
                    shown,
                    prompt_text=self._echo[request_id],
                    prompt_token_ids=request.prompt_token_ids,
                )
                for k in range(request.n)
            ]
            index += request.n

    @property
    def choices_by_prompt(self) -> list[list[Choice]]:
        """The choices of each prompt, in order."""
        return list(self._choices.values())

    @property
    def prompt_tables(self) -> list[PromptTable] | None:
        """For each prompt the log-probabilities of its tokens, if they were asked for. At the end
        only."""
        if self._format.prompt_logprobs is None:
            return None
        return [self._prompt_tables[request_id] for request_id in self._requests]

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
        try:
            self.ticket.check()
            self._stream: OutputStream = self._engine.add(list(self._requests.values()))
        except BaseException:
            self.ticket.close()
            raise
        self.ticket.on_refused = self._stream.interrupt
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        usage = self.usage
        self.ticket.close(usage.num_prompt_tokens + usage.num_completion_tokens)
        # Cancelled with the client; if not, it ended early by an error.
        early = "abort" if exc and not isinstance(exc, Exception) else "error"
        choices = [choice for choices in self._choices.values() for choice in choices]
        self._record.finish(
            usage.num_prompt_tokens,
            usage.num_completion_tokens,
            usage.num_cached_tokens,
            [choice.finish_reason or early for choice in choices],
            num_longest=max(choice.num_tokens for choice in choices),
        )

    def interrupt(self) -> None:
        """Make a wait for the next pieces, if there is one, raise TimeoutError. Loses nothing."""
        self._stream.interrupt()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Piece]:
        while True:
            touched: dict[int, Choice] = {}
            self.ticket.check()
            try:
                outputs = await anext(self._stream)
            except TimeoutError:
                self.ticket.check()  # it was told to give up, or else the wait was interrupted
                raise
            self.ticket.start()
            for output in outputs:
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
            self._take_prompt_logprobs(output.request_id, output.prompt_logprobs)
            touched = choices
        if output.started_at is not None:
            self._record.add_start(output.started_at)
        if output.num_preemptions:
            self._record.num_preemptions += output.num_preemptions
        if output.token_ids:
            self._record.add_tokens(choice.index, len(output.token_ids), time.monotonic())
        choice.add(output)
        if choice.finish_reason is not None and output.finish_reason is None:
            self._stream.abort(output.request_id, output.index)
        return touched

    def _take_prompt_logprobs(
        self, request_id: str, logprobs: Sequence[TokenLogprobs | None]
    ) -> None:
        token_ids = self._requests[request_id].prompt_token_ids
        shown = self._format
        if shown.prompt_logprobs is not None:
            self._prompt_tables[request_id] = prompt_table(
                self._tokenizer, token_ids, logprobs, shown.prompt_logprobs
            )
        if shown.echoed_logprobs is not None:
            entries = prompt_entries(
                self._tokenizer,
                shown.token_name(self._tokenizer),
                self._echo[request_id],
                token_ids,
                logprobs,
                shown.echoed_logprobs,
            )
            for choice in self._choices[request_id]:
                choice.add_prompt_logprobs(entries)


def _generation_failed(output: ChoiceOutput) -> ApiError:
    failure = output.error or Failure("generation_failed", "The engine ended this request early.")
    return ApiError(
        500,
        failure.message,
        type="server_error",
        code=failure.code,
        headers={"x-should-retry": "false"},
    )
