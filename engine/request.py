"""What is asked of the engine and what it answers: token ids and numbers, no text, no HTTP.

Standard library only. These types cross the process boundary; `messages.py` says how.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class FinishReason(StrEnum):
    """Why a choice ended. STOP and LENGTH are answers; ABORT and ERROR are not."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn, with every "off" value as the default.

    `seed` fixes the noise: a token is a pure function of (seed, choice index, position, logits).
    `stop_token_ids` end a choice (the server puts the model's end-of-sequence ids here too).
    `logprobs` and `prompt_logprobs` are the number of alternatives wanted; None means none at all,
    0 means the token's own log-probability only. `allowed_token_ids` are all that may be drawn,
    None for any. `bad_words` are token sequences that must not come up in the output: the last
    token of one is never drawn right after the others. Only where that and `min_tokens` leave
    nothing, a stop token is drawn too early after all, or else a bad word.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    max_tokens: int = 16
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """Keep the `n` best continuations instead of drawing; the choices are they, best first.

    Scores are those of `transformers`: the sum of a continuation's log-probabilities over its
    length, stop token included, to the power of `length_penalty`. `early_stopping`: True ends as
    soon as `n` are complete; False when no running one could beat the worst complete one at its
    present length; "never" when none could at any length.
    """

    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False


def beam_search_blocks(num_prompt_tokens: int, max_tokens: int, n: int, block_size: int) -> int:
    """Pages that a beam search of `n` takes at most: all full ones of the prompt are shared.

    One that needs more than there are, or more beams than sequences may run, must not be added.
    """
    num_shared = num_prompt_tokens // block_size
    num_tokens = num_prompt_tokens + max(max_tokens, 1) - 1  # the last one is never computed
    return num_shared + n * (-(-num_tokens // block_size) - num_shared)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the `n` choices wanted for it. `prompt_token_ids` is never empty.

    `cache_salt` separates prefix caches: equal prompts share pages only under an equal salt. Those
    of a lower `priority` go first; among equals the tenants take turns, and the requests of one
    `tenant` go in the order of their arrival. With `beam_search` nothing comes before the end; of
    `sampling` only lengths, stop tokens and `logprobs` apply.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams = SamplingParams()
    n: int = 1
    cache_salt: str = ""
    priority: int = 0
    beam_search: BeamSearch | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a choice could not be finished: `code` for programs, `message` one line for the user.

    "numerical_error": the model produced numbers that nothing can be drawn from.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position, of the distribution before any sampling parameter.

    `rank` is the token's own place in the whole vocabulary, 1 for the best. `top_token_ids` and
    `top_logprobs` run in parallel, best first. All are >= -9999.0.
    """

    logprob: float
    rank: int
    top_token_ids: list[int]
    top_logprobs: list[float]


@dataclass(slots=True)
class ChoiceOutput:
    """What one step brought for one choice of one request.

    `token_ids` are the new tokens, the stop token included. `logprobs` has one entry for each of
    them when asked for. `prompt_logprobs` has one entry for each prompt token (None for the first)
    and comes once, with the first output of choice 0. `stop_token_id` names the id that ended the
    choice. `num_cached_tokens` says how much of the prompt was not computed again, and `started_at`
    when the choice was first put into a step (`time.monotonic()`, one clock for all processes of a
    machine); both come with the first output. `num_preemptions` says how often the choice was put
    back to wait, of a beam search how often its first beam was; it comes with the last output.
    `error` is present when `finish_reason` is ERROR.
    """

    request_id: str
    index: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    error: Failure | None = None
    started_at: float | None = None
    num_preemptions: int = 0

    def extend(self, later: ChoiceOutput) -> None:
        """Take in what a later step brought for the same choice."""
        self.token_ids += later.token_ids
        if self.logprobs is None:
            self.logprobs = later.logprobs
        elif later.logprobs is not None:
            self.logprobs += later.logprobs
        self.finish_reason = later.finish_reason
        self.stop_token_id = later.stop_token_id
        self.error = later.error
        self.num_preemptions = later.num_preemptions
