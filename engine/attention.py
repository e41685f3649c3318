"""How the tokens of one step lie in the pages: the plan, made once per step, read by every layer.
And the rule of a layer: which of the earlier positions its tokens see, and how they are scored.

Knows rows, positions and pages; no requests, no weights. A kernel set may extend the plan with what
it alone needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one scheduled row: `num_tokens` from `first_token` of the step, which are the
    positions from `start` of their sequence."""

    row: int
    first_token: int
    num_tokens: int
    start: int

    @property
    def context_len(self) -> int:
        """How many positions the last token sees, itself included."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class StepLayout:
    """What a kernel set plans from.

    `rows` [num_tokens] and `positions` [num_tokens] (int64, on the device) place each token.
    `block_tables` [max_num_seqs, max_blocks] int32 is the runner's whole table, indexed by row;
    entries past a row's pages name `blank_block`, a page that always holds zeros.
    """

    spans: list[Span]
    rows: Tensor
    positions: Tensor
    block_tables: Tensor
    blank_block: int
    block_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class AttentionPlan:
    """Where the step's tokens are: `positions` [num_tokens] int64 and `spans`."""

    positions: Tensor
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What a layer's attention does beyond seeing everything up to the token itself.

    `window`: how many last positions a token sees, itself included. `soft_cap`: a score s becomes
    soft_cap * tanh(s / soft_cap). `scale` of the scores; None is head_dim ** -0.5.
    """

    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None

    def score_scale(self, head_dim: int) -> float:
        """What products of queries and keys are multiplied by."""
        return head_dim**-0.5 if self.scale is None else self.scale


# All earlier positions, plainly scored.
CAUSAL = AttentionRule()
