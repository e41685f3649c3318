"""Pages of the KV-cache as numbers: who holds them, which can be found again, which go next.

A block is *used* (reference count above zero), *cached* (count zero, contents still findable by
hash) or *free*. Knows nothing of requests or of policy; `None` from `allocate` is the only sign of
being out of memory. Standard library only.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence


def root_hash(cache_salt: str) -> bytes:
    """The parent of a prompt's first block; equal prompts meet only under an equal salt."""
    return hashlib.blake2b(cache_salt.encode(), digest_size=16, person=b"octavo.kv.root").digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """128 bits over the parent's hash and this block's tokens, so over the whole prefix."""
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class BlockPool:
    """Hands out blocks `0 .. num_blocks - 1`, counts references, remembers contents by hash."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_by_hash: dict[bytes, int] = {}
        self._free = deque(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # oldest first

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody uses and that still hold findable contents."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def allocate(self, num_blocks: int) -> list[int] | None:
        """`num_blocks` blocks with one reference each, or None if there are not that many.

        Empty blocks go first, then the cached ones that were given back longest ago.
        """
        if num_blocks > self.num_available:
            return None
        return [self._take() for _ in range(num_blocks)]

    def share(self, block_ids: Iterable[int]) -> None:
        """Add a reference to each; cached blocks become used again."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._cached[block_id]
            self._ref_counts[block_id] += 1

    def free(self, block_ids: Sequence[int]) -> None:
        """Drop a reference to each block of one sequence, given in the sequence's order.

        The last blocks of a sequence are evicted before its first ones: a prefix is worth more.
        """
        for block_id in reversed(block_ids):
            self._ref_counts[block_id] -= 1
            assert self._ref_counts[block_id] >= 0, f"block {block_id} freed twice"
            if self._ref_counts[block_id] == 0:
                if self._hashes[block_id] is None:
                    self._free.append(block_id)
                else:
                    self._cached[block_id] = None

    def register(self, block_id: int, content_hash: bytes) -> None:
        """Make a used, full block findable. The first block of equal contents stays the one."""
        assert self._ref_counts[block_id] > 0, f"block {block_id} registered while not in use"
        if content_hash not in self._block_by_hash and self._hashes[block_id] is None:
            self._hashes[block_id] = content_hash
            self._block_by_hash[content_hash] = block_id

    def unregister(self, block_id: int) -> None:
        """Make a used block's contents unfindable: they are not what they were to be."""
        assert self._ref_counts[block_id] > 0, f"block {block_id} unregistered while not in use"
        content_hash = self._hashes[block_id]
        if content_hash is not None:
            del self._block_by_hash[content_hash]
            self._hashes[block_id] = None

    def lookup(self, content_hash: bytes) -> int | None:
        """The block with these contents, used or cached."""
        return self._block_by_hash.get(content_hash)

    def ref_counts(self) -> dict[int, int]:
        """References to each used block."""
        return {block_id: count for block_id, count in enumerate(self._ref_counts) if count}

    def check_integrity(self) -> None:
        """Raise AssertionError unless used + cached + free = total and every index agrees."""
        free, cached = set(self._free), set(self._cached)
        used = {block_id for block_id, count in enumerate(self._ref_counts) if count > 0}
        assert len(free) == len(self._free), "a block is free twice"
        assert not (free & cached or free & used or cached & used), "a block is in two states"
        assert len(free) + len(cached) + len(used) == self.num_blocks, "a block is lost"
        assert all(self._hashes[block_id] is None for block_id in free), "free with a hash"
        assert all(self._hashes[block_id] is not None for block_id in cached), (
            "no hash in the cache"
        )
        hashes = {h: block_id for block_id, h in enumerate(self._hashes) if h is not None}
        assert hashes == self._block_by_hash, "the hash index disagrees with the blocks"

    def _take(self) -> int:
        if self._free:
            block_id = self._free.popleft()
        else:
            block_id, _ = self._cached.popitem(last=False)
            content_hash = self._hashes[block_id]
            assert content_hash is not None
            del self._block_by_hash[content_hash]
            self._hashes[block_id] = None
        self._ref_counts[block_id] = 1
        return block_id
