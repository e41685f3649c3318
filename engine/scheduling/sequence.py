"""One choice of one request on its way through the engine: its tokens, pages and row.

State only; the scheduler decides. A sequence that waits owns no row and no pages (but for those
that a launch under way still uses). Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.request import FinishReason, Request, TokenLogprobs
from engine.scheduling.beam_search import beam_sampling
from engine.scheduling.block_pool import block_hash, root_hash
from engine.scheduling.drafts import MAX_LOOKED_AT, Drafter, allows_drafts


class Sequence:
    """Choice `index` of `request`. `order` says who goes first: the lower priority number, then the
    lower `turn` of its request, then the older one (`arrival` counts sequences, choices in order).

    `parent` computes all tokens but the last for this one: choice 0 the prompt, a beam what a child
    of it continues. None for those who start alone, and once a sequence has started. The sequences
    of a beam search are beams, not choices: their index says nothing.
    """

    def __init__(
        self,
        request: Request,
        index: int,
        arrival: int,
        parent: Sequence | None = None,
        turn: int = 0,
    ) -> None:
        self.request = request
        self.index = index
        self.order = (request.priority, turn, arrival)
        self.parent = parent
        self.is_beam = request.beam_search is not None and request.sampling.max_tokens > 0
        self.sampling = beam_sampling(request) if self.is_beam else request.sampling
        self.allows_drafts = not self.is_beam and allows_drafts(request.sampling)
        self.drafter: Drafter | None = None
        self.candidates: TokenLogprobs | None = None  # a beam's, until its group has decided
        self.output_token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.num_cached_tokens: int | None = None  # of the prompt, found at the first start
        self.started_at: float | None = None  # the first time, by time.monotonic()
        self.num_preemptions = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        if self.index == 0 and self.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None] * self.num_prompt_tokens
        self.num_prompt_logprobs = 1  # entries known; the first token has none

        # Where it stands with the runner.
        self.row: int | None = None
        self.num_computed_tokens = 0  # positions whose keys and values a launch has been asked for
        self.num_pending_tokens = 0  # tokens drawn by launches not yet waited for
        self.num_launches = 0  # launches under way that use its row and pages
        self.block_ids: list[int] = []
        self.num_sent_blocks = 0  # how many of them the runner knows
        self.block_hashes: list[bytes] = []  # of the full blocks of known tokens
        self.num_registered_blocks = 0

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_known_tokens(self) -> int:
        return self.num_prompt_tokens + len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """All tokens, those included that are drawn but have not reached the host."""
        return self.num_known_tokens + self.num_pending_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def awaits_decision(self) -> bool:
        """Whether it is a beam that waits for the others of its group, with nothing to compute."""
        return self.candidates is not None

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether prompt positions must still be computed for their log-probabilities."""
        return (
            self.prompt_logprobs is not None and self.num_prompt_logprobs < self.num_prompt_tokens
        )

    def token_ids(self, start: int, stop: int) -> list[int]:
        """The known tokens at positions `start` .. `stop` (exclusive)."""
        num_prompt_tokens = self.num_prompt_tokens
        token_ids = self.request.prompt_token_ids[start:stop]
        if stop > num_prompt_tokens:
            first = max(start - num_prompt_tokens, 0)
            token_ids = token_ids + self.output_token_ids[first : stop - num_prompt_tokens]
        return token_ids

    def fork_from(self, parent: Sequence) -> None:
        """Become a copy of `parent` as to tokens. Pages are not touched."""
        self.parent = parent
        self.output_token_ids = list(parent.output_token_ids)
        self.block_hashes = list(parent.block_hashes)

    def draft(self, max_drafts: int, min_chance: float) -> list[int]:
        """Guesses at what follows the known tokens, each right with a chance above `min_chance`."""
        start = max(self.num_prompt_tokens - MAX_LOOKED_AT, 0)
        if self.drafter is None:
            self.drafter = Drafter()
        self.drafter.extend(self.token_ids(start + self.drafter.num_tokens, self.num_known_tokens))
        return self.drafter.propose(max_drafts, min_chance)

    def hash_blocks(self, block_size: int) -> list[bytes]:
        """Hashes of all full blocks of known tokens; grows with the tokens."""
        hashes = self.block_hashes
        while (len(hashes) + 1) * block_size <= self.num_known_tokens:
            start = len(hashes) * block_size
            parent = hashes[-1] if hashes else root_hash(self.request.cache_salt)
            hashes.append(block_hash(parent, self.token_ids(start, start + block_size)))
        return hashes

    def store_prompt_logprobs(self, start: int, logprobs: Iterable[TokenLogprobs]) -> None:
        """Keep what the positions from `start` on said of their successors in the prompt."""
        assert self.prompt_logprobs is not None
        for position, entry in enumerate(logprobs, start + 1):
            self.prompt_logprobs[position] = entry
            self.num_prompt_logprobs = max(self.num_prompt_logprobs, position + 1)
