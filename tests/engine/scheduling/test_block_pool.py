"""Exact block ids on tiny pools: who gets which page, what is found again, what goes first."""

from __future__ import annotations

import pytest

from engine.scheduling.block_pool import BlockPool, block_hash, root_hash


def _hash(*token_ids: int) -> bytes:
    return block_hash(root_hash(""), token_ids)


def test_allocates_in_order_and_none_means_out_of_memory() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == [0, 1, 2]
    assert pool.allocate(2) is None
    assert pool.allocate(1) == [3]
    assert pool.allocate(0) == []
    assert pool.num_used == 4
    pool.check_integrity()


def test_shared_blocks_stay_until_the_last_owner_leaves() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    assert blocks == [0, 1]
    pool.share([0])
    pool.free([0, 1])
    assert pool.num_available == 1
    pool.free([0])
    assert pool.num_available == 2
    pool.check_integrity()


def test_freed_blocks_with_known_contents_are_found_again() -> None:
    pool = BlockPool(3)
    pool.allocate(2)
    pool.register(0, _hash(1))
    pool.register(1, _hash(2))
    pool.free([0, 1])
    assert pool.num_cached == 2
    assert pool.lookup(_hash(2)) == 1
    pool.share([1])
    assert (pool.num_cached, pool.num_used) == (1, 1)
    pool.check_integrity()


def test_empty_blocks_go_before_cached_ones_and_tails_before_heads() -> None:
    pool = BlockPool(4)
    pool.allocate(3)
    for block_id in range(3):
        pool.register(block_id, _hash(block_id))
    pool.free([0, 1, 2])
    assert pool.allocate(2) == [3, 2]
    assert pool.lookup(_hash(2)) is None
    assert pool.lookup(_hash(0)) == 0
    assert pool.allocate(1) == [1]
    pool.check_integrity()


def test_the_first_block_of_equal_contents_stays_the_one() -> None:
    pool = BlockPool(2)
    pool.allocate(2)
    pool.register(0, _hash(1))
    pool.register(1, _hash(1))
    assert pool.lookup(_hash(1)) == 0
    pool.free([1])
    assert pool.num_cached == 0
    pool.check_integrity()


def test_freeing_twice_is_noticed() -> None:
    pool = BlockPool(1)
    pool.allocate(1)
    pool.free([0])
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([0])


def test_hashes_depend_on_salt_parent_and_every_token() -> None:
    hashes = {
        block_hash(root_hash(""), [1, 2]),
        block_hash(root_hash("key"), [1, 2]),
        block_hash(root_hash(""), [2, 1]),
        block_hash(root_hash(""), [1]),
        block_hash(_hash(9), [1, 2]),
    }
    assert len(hashes) == 5
    assert block_hash(root_hash(""), [1, 2]) == _hash(1, 2)


def test_an_unregistered_block_is_found_no_more() -> None:
    pool = BlockPool(2)
    block_ids = pool.allocate(2)
    assert block_ids is not None
    pool.register(block_ids[0], b"a")
    pool.unregister(block_ids[0])
    pool.unregister(block_ids[1])  # was not registered
    assert pool.lookup(b"a") is None
    pool.free(block_ids)
    pool.check_integrity()
    assert (pool.num_available, pool.num_cached) == (2, 0)
