"""Finds the pages of an equal prefix: computed already, being computed right now, or a parent's.

Sits between the scheduler's policy and the block pool's bookkeeping. Standard library only.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.scheduling.block_pool import BlockPool
from engine.scheduling.sequence import Sequence


class Reuse(NamedTuple):
    """What a sequence need not compute: whole shared blocks, and one to copy the start of."""

    num_tokens: int
    block_ids: list[int]
    copy_from: int | None = None


class PrefixCache:
    """Full blocks of known tokens, by the hash of all tokens up to their end.

    A running sequence *claims* the blocks it is going to fill; whoever would compute the same
    ones waits for it instead. When disabled, nothing is ever found or claimed.
    """

    def __init__(self, pool: BlockPool, block_size: int, enabled: bool) -> None:
        self._pool = pool
        self._block_size = block_size
        self._enabled = enabled
        self._claims: dict[bytes, Sequence] = {}

    def find(self, sequence: Sequence) -> Reuse | None:
        """What a sequence that starts need not compute; None when it is worth to wait for another.

        At least one token is left to compute: somebody has to bring the logits.
        """
        parent = sequence.parent
        if parent is not None and parent.finish_reason is None:
            if parent.num_computed_tokens >= sequence.num_known_tokens - 1:
                return self.fork(parent, sequence.num_known_tokens - 1)
            if not parent.awaits_decision:
                return None
        block_ids = [] if sequence.wants_prompt_logprobs else self._lookup(sequence)
        if block_ids is None:
            return None
        return Reuse(len(block_ids) * self._block_size, block_ids)

    def fork(self, parent: Sequence, num_tokens: int) -> Reuse:
        """The first `num_tokens` of `parent`, which has computed them."""
        num_shared, num_copied = divmod(num_tokens, self._block_size)
        copy_from = parent.block_ids[num_shared] if num_copied else None
        return Reuse(num_tokens, parent.block_ids[:num_shared], copy_from)

    def swap(self, sequence: Sequence, parent: Sequence) -> dict[int, int]:
        """Give a running beam the pages of another that has computed as much, in place of its own.

        Takes no new page. The partial one stays its own: answers which page it has to be
        overwritten with, if there is one.
        """
        assert sequence.num_computed_tokens == parent.num_computed_tokens
        reuse = self.fork(parent, parent.num_computed_tokens)
        num_shared = len(reuse.block_ids)
        self._pool.share(reuse.block_ids)
        self._pool.free(sequence.block_ids[:num_shared])
        sequence.block_ids[:num_shared] = reuse.block_ids
        sequence.parent = None
        sequence.num_sent_blocks = 0
        return {} if reuse.copy_from is None else {sequence.block_ids[-1]: reuse.copy_from}

    def claim(self, sequence: Sequence) -> None:
        """Announce the blocks that a sequence which starts to run will fill."""
        if self._enabled:
            hashes = sequence.hash_blocks(self._block_size)
            for content_hash in hashes[sequence.num_registered_blocks :]:
                self._claims.setdefault(content_hash, sequence)

    def register(self, sequence: Sequence) -> None:
        """Make blocks findable whose tokens are known and whose computation was asked for.

        That is soon enough: launches run in order, so a later one reads what an earlier one wrote.
        """
        num_tokens = min(sequence.num_computed_tokens, sequence.num_known_tokens)
        num_full = num_tokens // self._block_size
        if not self._enabled or num_full <= sequence.num_registered_blocks:
            return
        hashes = sequence.hash_blocks(self._block_size)
        for i in range(sequence.num_registered_blocks, num_full):
            self._pool.register(sequence.block_ids[i], hashes[i])
            self._drop_claim(hashes[i], sequence)
        sequence.num_registered_blocks = num_full

    def forget(self, sequence: Sequence, start: int) -> None:
        """Nobody shall find the blocks with what was to be computed from position `start` on."""
        num_sound = start // self._block_size
        for block_id in sequence.block_ids[num_sound : sequence.num_registered_blocks]:
            self._pool.unregister(block_id)
        sequence.num_registered_blocks = min(sequence.num_registered_blocks, num_sound)

    def unclaim(self, sequence: Sequence) -> None:
        """Forget what a sequence that stops running would have filled."""
        for content_hash in sequence.block_hashes[sequence.num_registered_blocks :]:
            self._drop_claim(content_hash, sequence)

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raise AssertionError when a claim outlived its owner: others would wait for ever."""
        assert set(self._claims.values()) <= set(running), "a claim outlived its owner"

    def _drop_claim(self, content_hash: bytes, sequence: Sequence) -> None:
        if self._claims.get(content_hash) is sequence:
            del self._claims[content_hash]

    def _lookup(self, sequence: Sequence) -> list[int] | None:
        """Blocks that hold the start of the sequence; None when the next one is being computed."""
        if not self._enabled:
            return []
        limit = (sequence.num_known_tokens - 1) // self._block_size
        block_ids: list[int] = []
        for content_hash in sequence.hash_blocks(self._block_size)[:limit]:
            block_id = self._pool.lookup(content_hash)
            if block_id is None:
                if content_hash in self._claims:
                    return None
                break
            block_ids.append(block_id)
        return block_ids
