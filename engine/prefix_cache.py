"""Finds the pages of an equal prefix: those computed already, and those being computed right now.

Sits between the scheduler's policy and the block pool's bookkeeping. Standard library only.
"""

from __future__ import annotations

from engine.block_pool import BlockPool
from engine.sequence import Sequence


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

    def find(self, sequence: Sequence) -> list[int] | None:
        """Blocks that hold the start of the sequence; None when the next one is being computed.

        At least one token is left to compute: somebody has to bring the logits.
        """
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
