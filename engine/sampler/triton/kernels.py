# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""The draw on a GPU without sorting: four launches for all rows, whatever their parameters.

1. `find_best`: the best logit of each row. Greedy rows know their token.
2. `count`: for rows with top_k or top_p, how many tokens there are in each *bin* of drops, and
   what they weigh. All sums are of integers, so their order does not matter.
3. `spread`: the bins tell nearly all: most tokens are certainly in or certainly out, and those of
   the few bins where top_k or top_p cuts are listed. The certain ones draw.
4. `finish`: one program for each row cuts its list exactly, and draws from what remains.

1 to 3 split a row over programs, so that one row can keep a GPU busy. Nothing depends on how many.
A token's *key* is as in `ranking.py`: the bits of its drop in the high word, its id in the low one.
Rows of `numbers` are laid out by `TritonDraw`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engine.sampler.triton.arithmetic import log_exponential, weights

# How a row is drawn.
GREEDY = tl.constexpr(0)
ALL = tl.constexpr(1)
CUT = tl.constexpr(2)

# A row of `numbers`, int32 words.
METHOD = tl.constexpr(0)
TOP_K = tl.constexpr(1)
KEY_LOW = tl.constexpr(2)
KEY_HIGH = tl.constexpr(3)
TEMPERATURE = tl.constexpr(4)  # from here on the bits of a float32
MAX_DROP = tl.constexpr(5)
TOP_P = tl.constexpr(6)
NUM_WORDS = tl.constexpr(8)

BLOCK = tl.constexpr(1024)
MAX_SPLITS = tl.constexpr(128)

# Bins of 1/32 up to a drop of 32. What lies beyond weighs nothing and cannot be drawn: noise is
# between -22.2 and 2.9, so the best token always costs less.
BINS = tl.constexpr(1024)
_BINS_PER_UNIT = tl.constexpr(32.0)
_FAR = tl.constexpr(32.0)

# Longer lists are not written: `finish` then looks at the whole row instead.
MAX_LISTED = tl.constexpr(4096)

_INF = tl.constexpr(float("inf"))
_LOWEST = tl.constexpr(-3.4028234663852886e38)
_NO_TOKEN = tl.constexpr(0x7FFFFFFF)
_NO_KEY = tl.constexpr((0x7F800000 << 32) + 0x7FFFFFFF)  # a drop of inf


@triton.jit(do_not_specialize=["chunk"])
def find_best(logits, stride, numbers, best, best_ids, counts, masses, num_listed, vocab, chunk):
    """Each split's best logit and its lowest id, into [num_rows, MAX_SPLITS]; zeros for `count`."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    if (split == 0) & (tl.load(numbers + row * NUM_WORDS + METHOD) == CUT):
        bins = tl.arange(0, BINS)
        tl.store(counts + row * BINS + bins, tl.zeros([BINS], tl.int32))
        tl.store(masses + row * BINS + bins, tl.zeros([BINS], tl.int64))
        tl.store(num_listed + row, 0)
    found = tl.full([BLOCK], -_INF, tl.float32)
    found_ids = tl.full([BLOCK], _NO_TOKEN, tl.int32)
    for start in range(split * chunk, tl.minimum((split + 1) * chunk, vocab), BLOCK):
        ids = start + tl.arange(0, BLOCK)
        values = tl.load(logits + row * stride + ids, mask=ids < vocab, other=-_INF)
        better = values > found
        found = tl.where(better, values, found)
        found_ids = tl.where(better, ids, found_ids)
    split_best = tl.max(found)
    at = row * MAX_SPLITS + split
    tl.store(best + at, split_best)
    tl.store(best_ids + at, tl.min(tl.where(found == split_best, found_ids, _NO_TOKEN)))


@triton.jit(do_not_specialize=["chunk", "num_splits"])
def count(logits, stride, numbers, best, counts, masses, vocab, chunk, num_splits):
    """How many tokens each bin has, and their weight, into [num_rows, BINS]."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    words = numbers + row * NUM_WORDS
    if tl.load(words + METHOD) != CUT:
        return
    best_logit = _best_logit(best + row * MAX_SPLITS, num_splits)
    for start in range(split * chunk, tl.minimum((split + 1) * chunk, vocab), BLOCK):
        ids = start + tl.arange(0, BLOCK)
        drops = _drops(logits + row * stride, ids, vocab, words, best_logit)
        at = row * BINS + _bins(drops)
        ones = tl.full([BLOCK], 1, tl.int32)
        tl.atomic_add(counts + at, ones, mask=drops < _FAR, sem="relaxed")
        tl.atomic_add(masses + at, weights(drops), mask=drops < _FAR, sem="relaxed")


@triton.jit(do_not_specialize=["chunk", "num_splits"])
def spread(
    logits,
    stride,
    numbers,
    best,
    counts,
    masses,
    listed,
    num_listed,
    costs,
    cost_ids,
    vocab,
    chunk,
    num_splits,
):
    """The least cost among each split's certain tokens, and the keys of the uncertain ones.

    `costs`, `cost_ids` [num_rows, MAX_SPLITS]; `listed` [num_rows, MAX_LISTED] in any order.
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    words = numbers + row * NUM_WORDS
    method = tl.load(words + METHOD)
    if method == GREEDY:
        return
    best_logit = _best_logit(best + row * MAX_SPLITS, num_splits)
    low, high, k_bin, writes = BINS, -1, -1, False
    if method == CUT:
        low, high, k_bin, _, _, _, num_uncertain = _cut(
            counts + row * BINS, masses + row * BINS, words
        )
        writes = num_uncertain <= MAX_LISTED
    least = tl.full([BLOCK], _INF, tl.float32)
    least_ids = tl.full([BLOCK], _NO_TOKEN, tl.int32)
    for start in range(split * chunk, tl.minimum((split + 1) * chunk, vocab), BLOCK):
        ids = start + tl.arange(0, BLOCK)
        drops = _drops(logits + row * stride, ids, vocab, words, best_logit)
        bins = _bins(drops)
        certain = (drops < _FAR) & (bins < low)
        if tl.max(certain.to(tl.int32)) > 0:
            least, least_ids = _cheaper(least, least_ids, drops, ids, certain, words)
        if writes:
            uncertain = (drops < _FAR) & _is_uncertain(bins, low, high, k_bin)
            places = tl.cumsum(uncertain.to(tl.int32))
            num = tl.max(places)
            if num > 0:
                first = tl.atomic_add(num_listed + row, num, sem="relaxed")
                at = row * MAX_LISTED + first + places - 1
                tl.store(listed + at, _keys(drops, ids), mask=uncertain)
    split_least, split_id = _least(least, least_ids)
    at = row * MAX_SPLITS + split
    tl.store(costs + at, split_least)
    tl.store(cost_ids + at, split_id)


@triton.jit(do_not_specialize=["num_splits"])
def finish(
    logits,
    stride,
    numbers,
    best,
    best_ids,
    counts,
    masses,
    listed,
    num_listed,
    costs,
    cost_ids,
    token_ids,
    vocab,
    num_splits,
):
    """The token of each row into `token_ids` [num_rows] int64; 0 where no token is left."""
    row = tl.program_id(0).to(tl.int64)
    words = numbers + row * NUM_WORDS
    splits = tl.arange(0, MAX_SPLITS)
    at, there = row * MAX_SPLITS + splits, splits < num_splits
    method = tl.load(words + METHOD)
    if method == GREEDY:
        split_best = tl.load(best + at, mask=there, other=-_INF)
        split_ids = tl.load(best_ids + at, mask=there, other=_NO_TOKEN)
        _, token_id = _least(-split_best, split_ids)
    else:
        split_costs = tl.load(costs + at, mask=there, other=_INF)
        split_ids = tl.load(cost_ids + at, mask=there, other=_NO_TOKEN)
        cost, token_id = _least(split_costs, split_ids)
        if method == CUT:
            best_logit = _best_logit(best + row * MAX_SPLITS, num_splits)
            low, high, k_bin, num_left, mass, mass_before, num_uncertain = _cut(
                counts + row * BINS, masses + row * BINS, words
            )
            is_listed = num_uncertain <= MAX_LISTED
            num = vocab
            if is_listed:
                num = tl.load(num_listed + row)
            row_logits, row_listed = logits + row * stride, listed + row * MAX_LISTED
            tokens = (row_logits, vocab, words, best_logit, row_listed, is_listed)
            k_end = _first_key(BINS)
            if k_bin >= 0:
                begin, end = _first_key(k_bin), _first_key(k_bin + 1)
                k_end = _search(tokens, num, begin, end, num_left, False)
                _, mass_within = _measure(tokens, num, begin, k_end)
                mass += mass_within
            begin = _first_key(low)
            end = tl.minimum(_first_key(high + 1), k_end)
            mass_left = _nucleus_mass(mass, _float(words, TOP_P)) - mass_before
            end = _search(tokens, num, begin, end, mass_left, True)
            least = tl.full([BLOCK], _INF, tl.float32)
            least_ids = tl.full([BLOCK], _NO_TOKEN, tl.int32)
            for start in range(0, num, BLOCK):
                keys = _load_keys(tokens, num, start)
                kept = (keys >= begin) & (keys < end)
                ids = (keys & 0xFFFFFFFF).to(tl.int32)
                least, least_ids = _cheaper(least, least_ids, _drops_of(keys), ids, kept, words)
            listed_cost, listed_id = _least(least, least_ids)
            wins = (listed_cost < cost) | ((listed_cost == cost) & (listed_id < token_id))
            token_id = tl.where(wins, listed_id, token_id)
    token_id = tl.where(token_id < vocab, token_id, 0)
    tl.store(token_ids + row, token_id.to(tl.int64))


@triton.jit
def _best_logit(best, num_splits):
    splits = tl.arange(0, MAX_SPLITS)
    values = tl.load(best + splits, mask=splits < num_splits, other=-_INF)
    # Adding 0 makes -0 to +0, so that no drop is -0.
    return tl.maximum(tl.max(values), _LOWEST) + 0.0


@triton.jit
def _drops(logits, ids, vocab, words, best_logit):
    """How far tokens lie below the best; inf where they are out, or too far to be drawn."""
    values = tl.load(logits + ids, mask=ids < vocab, other=-_INF)
    drops = tl.div_rn(best_logit - values, _float(words, TEMPERATURE))
    return tl.where((drops <= _float(words, MAX_DROP)) & (drops < _FAR), drops, _INF)


@triton.jit
def _bins(drops):
    return (tl.minimum(drops, _FAR - 1 / _BINS_PER_UNIT) * _BINS_PER_UNIT).to(tl.int32)


@triton.jit
def _keys(drops, ids):
    return (drops.to(tl.int32, bitcast=True).to(tl.int64) << 32) | ids.to(tl.int64)


@triton.jit
def _drops_of(keys):
    return (keys >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _first_key(bin):
    """Below this key are the bins before `bin`."""
    first_drop = tl.cast(bin, tl.float32) * (1 / _BINS_PER_UNIT)
    return first_drop.to(tl.int32, bitcast=True).to(tl.int64) << 32


@triton.jit
def _cheaper(least, least_ids, drops, ids, takes_part, words):
    """Lane by lane the token that costs less, of equals the earlier one."""
    noise = log_exponential(ids, tl.load(words + KEY_LOW), tl.load(words + KEY_HIGH))
    costs = tl.where(takes_part, drops + noise, _INF)
    better = costs < least
    return tl.where(better, costs, least), tl.where(better, ids, least_ids)


@triton.jit
def _least(costs, ids):
    """The least cost and the lowest id that has it."""
    cost = tl.min(costs)
    return cost, tl.min(tl.where(costs == cost, ids, _NO_TOKEN))


@triton.jit
def _nucleus_mass(total, top_p):
    """As in `draw.py`: a token is inside if those before it weigh less."""
    return tl.maximum(tl.ceil(total.to(tl.float64) * top_p.to(tl.float64)), 1.0).to(tl.int64)


@triton.jit
def _cut(counts, masses, words):
    """Where top_k and top_p cut, as far as the bins tell.

    Tokens of the bins before `low` are certainly in. top_p cuts in one of the bins from `low` to
    `high`; which one follows from the weight of the best top_k. top_k keeps `num_left` tokens of
    the bin `k_bin`, before which there is `mass`; -1 if it cuts no bin in two: then `mass` is all.

    Returns low, high, k_bin, num_left, mass, the mass before `low`, and how many are uncertain.
    """
    top_k, top_p = tl.load(words + TOP_K), _float(words, TOP_P)
    bins = tl.arange(0, BINS)
    bin_counts, bin_masses = tl.load(counts + bins), tl.load(masses + bins)
    counts_before = tl.cumsum(bin_counts) - bin_counts
    masses_before = tl.cumsum(bin_masses) - bin_masses
    k_bin = tl.sum((counts_before < top_k).to(tl.int32)) - 1
    num_left = (top_k - tl.sum(tl.where(bins < k_bin, bin_counts, 0))).to(tl.int64)
    is_split = tl.sum(tl.where(bins == k_bin, bin_counts, 0)) > num_left
    least_mass = tl.sum(tl.where(bins < k_bin + 1 - is_split.to(tl.int32), bin_masses, 0))
    most_mass = tl.sum(tl.where(bins <= k_bin, bin_masses, 0))
    least_target, most_target = _nucleus_mass(least_mass, top_p), _nucleus_mass(most_mass, top_p)
    low = tl.minimum(tl.sum((masses_before < least_target).to(tl.int32)) - 1, k_bin)
    high = tl.minimum(tl.sum((masses_before < most_target).to(tl.int32)) - 1, k_bin)
    k_bin = tl.where(is_split, k_bin, -1)
    mass_before = tl.sum(tl.where(bins < low, bin_masses, 0))
    uncertain = _is_uncertain(bins, low, high, k_bin)
    num_uncertain = tl.sum(tl.where(uncertain, bin_counts, 0))
    return low, high, k_bin, num_left, least_mass, mass_before, num_uncertain


@triton.jit
def _is_uncertain(bins, low, high, k_bin):
    return ((bins >= low) & (bins <= high)) | (bins == k_bin)


@triton.jit
def _load_keys(tokens, num, start):
    """A block of the `num` keys: of the listed tokens, or of all."""
    logits, vocab, words, best_logit, listed, is_listed = tokens
    at = start + tl.arange(0, BLOCK)
    if is_listed:
        keys = tl.load(listed + at, mask=at < num, other=_NO_KEY)
    else:
        keys = _keys(_drops(logits, at, vocab, words, best_logit), at)
    return keys


@triton.jit
def _measure(tokens, num, begin, end):
    """How many keys there are from `begin` to before `end`, and what their tokens weigh."""
    counts = tl.full([BLOCK], 0, tl.int64)
    masses = tl.full([BLOCK], 0, tl.int64)
    for start in range(0, num, BLOCK):
        keys = _load_keys(tokens, num, start)
        inside = (keys >= begin) & (keys < end)
        counts += inside.to(tl.int64)
        masses += tl.where(inside, weights(_drops_of(keys)), 0)
    return tl.sum(counts), tl.sum(masses)


@triton.jit
def _search(tokens, num, begin, end, target, BY_MASS: tl.constexpr):
    """The end of what is kept of the keys from `begin` to before `end`.

    A token is kept if those before it are fewer than `target`, or weigh less. Halves the range
    until it has one token or none: a kept one, as all before it have been found too few.
    """
    remaining = num
    while (remaining > 1) & (end - begin > 1):
        middle = begin + ((end - begin) >> 1)
        count_below, mass_below = _measure(tokens, num, begin, middle)
        measure = mass_below if BY_MASS else count_below
        if measure < target:
            begin = middle
            target -= measure
            remaining -= count_below.to(tl.int32)
        else:
            end = middle
            remaining = count_below.to(tl.int32)
    return end


@triton.jit
def _float(words, index):
    return tl.load(words + index).to(tl.float32, bitcast=True)
