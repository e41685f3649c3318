"""What is known of one HTTP request, gathered while it is answered, for those who report it.

Plain data. All times are of `time.monotonic()`, which is one clock for all processes of a machine,
so that the engine's times and ours can be subtracted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from starlette.types import Scope

from server.observe.histogram import Histogram

CLIENT_CLOSED_REQUEST = 499  # nginx's number; nothing is sent, because nobody reads it

_SCOPE_KEY = "octavo.record"


class CompletionRecord:
    """What a completion asked for, and what came when, over all its prompts and choices.

    `parameters` are the sampling parameters of interest, `prompts` only there if they may be
    logged. `gap_seconds` is the sum of the gaps between tokens of the same choice, of which there
    are `num_gaps`; tokens that came together share the time since the ones before.
    `num_preemptions` is how often the engine put one of the choices back to wait.
    """

    __slots__ = (
        "_gaps",
        "_last_token_at",
        "completion_id",
        "finish_reasons",
        "first_token_at",
        "gap_seconds",
        "model",
        "n",
        "num_cached_tokens",
        "num_gaps",
        "num_generated_tokens",
        "num_longest",
        "num_preemptions",
        "num_prompt_tokens",
        "num_prompts",
        "parameters",
        "prompts",
        "started_at",
    )

    def __init__(
        self,
        completion_id: str,
        model: str,
        *,
        num_prompts: int,
        n: int,
        parameters: Mapping[str, object],
        prompts: Sequence[str | list[int]] | None,
        gaps: Histogram,
    ) -> None:
        """`n` choices of each prompt are generated. `gaps` is told each gap between tokens."""
        self.completion_id = completion_id
        self.model = model
        self.num_prompts = num_prompts
        self.n = n
        self.parameters = parameters
        self.prompts = prompts
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_cached_tokens = 0
        self.num_longest = 0
        self.num_preemptions = 0
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.gap_seconds = 0.0
        self.num_gaps = 0
        self.finish_reasons: list[str] = []
        self._last_token_at: dict[int, float] = {}
        self._gaps = gaps

    def add_start(self, started_at: float) -> None:
        """A choice came to its first step then."""
        if self.started_at is None or started_at < self.started_at:
            self.started_at = started_at

    def add_tokens(self, choice: int, num_tokens: int, now: float) -> None:
        """A choice got its next tokens. Called for every step of every choice."""
        before = self._last_token_at.get(choice)
        self._last_token_at[choice] = now
        if before is None:
            if self.first_token_at is None:
                self.first_token_at = now
        else:
            self.gap_seconds += now - before
            self.num_gaps += num_tokens
            self._gaps.observe_all(now - before, num_tokens)

    def finish(
        self,
        num_prompt: int,
        num_generated: int,
        num_cached: int,
        reasons: list[str],
        *,
        num_longest: int,
    ) -> None:
        """The counts of tokens, those of the longest choice, and for each choice why it ended."""
        self.num_longest = num_longest
        self.num_prompt_tokens = num_prompt
        self.num_generated_tokens = num_generated
        self.num_cached_tokens = num_cached
        self.finish_reasons = reasons

    @property
    def last_token_at(self) -> float | None:
        return max(self._last_token_at.values(), default=None)

    @property
    def mean_gap(self) -> float | None:
        """Seconds between two tokens of a choice."""
        return self.gap_seconds / self.num_gaps if self.num_gaps else None

    @property
    def finish_reason(self) -> str | None:
        """The choices' common one, several joined by commas."""
        return ",".join(sorted(set(self.finish_reasons))) or None


@dataclass(slots=True)
class RequestRecord:
    """`route` is the template of the URL, None where there is none; `status` 0 until there is an
    answer. `error_code` and `error_type` are those of the error that the client was told, also in
    a stream. `key_name` says which API key it came with, and cannot be turned back into it."""

    request_id: str
    method: str
    client: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    begun_at: float = field(default_factory=time.monotonic)
    ended_at: float = 0.0
    route: str | None = None
    status: int = 0
    error_type: str | None = None
    error_code: str | None = None
    key_name: str | None = None
    stream: bool | None = None
    completion: CompletionRecord | None = None
    trace_id: str | None = None

    @property
    def is_completion(self) -> bool:
        """Whether it asked for a completion, also where that was refused."""
        return self.route is not None and self.route.endswith("/completions")

    @property
    def is_turned_away(self) -> bool:
        """Whether it was refused before it came to a route: no valid HTTP, no such host, no key."""
        return self.route is None and self.status not in (200, 404)

    @property
    def outcome(self) -> Literal["finished", "refused", "failed", "aborted"]:
        """What became of it. A stream that fails has the status 200, which was sent before."""
        if self.status == CLIENT_CLOSED_REQUEST:
            return "aborted"
        if self.status == 200 and self.error_type is None:
            return "finished"
        is_refused = 400 <= self.status < 500 or self.status == 503
        return "refused" if is_refused else "failed"

    @property
    def seconds(self) -> float:
        """From its first byte that reached the application to the end of its answer."""
        return self.ended_at - self.begun_at

    @property
    def queue_seconds(self) -> float | None:
        """From its arrival to the first step that computed a part of it."""
        return self._since_begun(self.completion.started_at) if self.completion else None

    @property
    def first_token_seconds(self) -> float | None:
        return self._since_begun(self.completion.first_token_at) if self.completion else None

    def _since_begun(self, moment: float | None) -> float | None:
        return None if moment is None else max(moment - self.begun_at, 0.0)

    def fail(self, error_type: str, error_code: str | None) -> None:
        """The client was told of this error."""
        self.error_type = error_type
        self.error_code = error_code


def attach_record(scope: Scope, record: RequestRecord) -> None:
    """Make `record` what `record_of` finds for this request."""
    scope[_SCOPE_KEY] = record


def record_of(scope: Scope) -> RequestRecord | None:
    """The record of the request, None where nobody keeps one."""
    record: RequestRecord | None = scope.get(_SCOPE_KEY)
    return record
