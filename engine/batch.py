"""The contract between scheduler and runner: what to run in one step, and what came out of it.

A sequence keeps one *row* of the runner's state while it runs. There are no phases: a prompt, a
chunk of one and a single decoded token are all `num_tokens` tokens at `start`. Standard library
only; plain ints and lists, so that policy is tested without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from engine.request import Failure, SamplingParams, TokenLogprobs


@dataclass(slots=True)
class RowStart:
    """A sequence enters `row`; whatever the runner kept there before is void.

    `token_ids` are all tokens known now: the prompt, then what was generated before a preemption.
    """

    row: int
    index: int
    sampling: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int


@dataclass(slots=True)
class ScheduledRow:
    """Compute positions `start` .. `start + num_tokens` (exclusive) of the sequence in `row`.

    `token_ids` holds the ids of these positions as far as they are known. With overlapped launches
    the last one may still be on the device, sampled by a launch that was not waited for: then
    `token_ids` is one shorter than `num_tokens` and the runner takes the row's last sampled token.
    `new_block_ids` are the pages that follow the row's first `num_known_blocks` ones.
    `sample` asks for a token after the last position. The last `num_drafts` of `token_ids` are
    guesses: then a token is asked for after the position before them and after each of them, as far
    as the guesses turn out to be what is drawn. `prompt_targets` asks for prompt
    log-probabilities: the token ids at `start + 1` .. of the prompt, one for each computed position
    that has a successor in the prompt.
    """

    row: int
    start: int
    num_tokens: int
    token_ids: list[int]
    num_known_blocks: int
    new_block_ids: list[int]
    sample: bool
    prompt_targets: list[int] | None = None
    num_drafts: int = 0


@dataclass(slots=True)
class Batch:
    """One step. Order for the runner: `starts`, then `copies` (page to page), then `rows`."""

    starts: list[RowStart] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    rows: list[ScheduledRow] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)


@dataclass(slots=True)
class RowOutput:
    """What a launch brought for one scheduled row, in the order of `Batch.rows`.

    `token_ids` is empty when `sample` was not asked for. With drafts it holds those that were right
    and the token that was drawn after them.
    `prompt_logprobs` runs parallel to `prompt_targets`. With an `error` the row's request
    fails, its neighbours go on.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    error: Failure | None = None


class Handle(Protocol):
    """A launch under way."""

    def wait(self) -> list[RowOutput]:
        """Block until the launch is done; one output for each row of its batch, in order."""


class Runner(Protocol):
    """Runs batches in the order of their launch; may have several under way."""

    @property
    def max_launches(self) -> int:
        """How many steps are best under way at a time; at least 1."""

    def launch(self, batch: Batch) -> Handle:
        """Start one step and return without waiting for its results."""
