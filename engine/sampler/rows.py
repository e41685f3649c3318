"""The sampling parameters of every row, on the host: what a launch needs to plan its stages.

Numbers lie in one table [max_num_seqs] so that a batch is gathered by one indexing; lists (logit
bias, tokens that may or may not be drawn) lie beside it. Plain numpy.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler.bad_words import BadWords
from engine.sampler.gumbel import choice_stream
from engine.sampler.transfer import IntArray

Numbers: TypeAlias = NDArray[Any]  # structured: entries of the table

# Few widths, so that the rows of a batch share one `topk`.
_WIDTHS = (128, 1024, 8192)

# Below this a temperature means greedy: dividing by it would only overflow.
_MIN_TEMPERATURE = 1e-5

_ROW = np.dtype(
    [
        ("stream", np.uint64),
        ("method", np.int8),  # a DrawMethod
        ("width", np.int32),  # the best tokens to look at, for DrawMethod.BEST
        ("penalized", np.bool_),
        ("biased", np.bool_),
        ("restricted", np.bool_),  # has allowed tokens
        ("censored", np.bool_),  # has bad words
        ("keeps_history", np.bool_),  # a draw looks at the tokens before it
        ("temperature", np.float32),
        ("max_drop", np.float32),  # -log(min_p), inf where off
        ("top_k", np.int32),  # the vocabulary's size where off
        ("top_p", np.float32),
        ("repetition", np.float32),
        ("presence", np.float32),
        ("frequency", np.float32),
        ("num_prompt_tokens", np.int64),
        ("min_position", np.int64),  # from here on stop tokens may be drawn
        ("num_top", np.int32),  # alternatives wanted, -1 for no logprobs at all
    ]
)


class DrawMethod(IntEnum):
    """Which function of `draw.py` serves a row; rows of one method are drawn together."""

    GREEDY = 0
    ALL = 1
    BEST = 2
    NUCLEUS = 3


class RowLists(NamedTuple):
    """What a row has lists of; token ids are distinct and the model has them.

    `bias` runs parallel to `bias_ids`. No `allowed_ids`: all are allowed.
    """

    bias_ids: IntArray
    bias: NDArray[np.float32]
    stop_ids: IntArray
    allowed_ids: IntArray
    bad_words: BadWords

    @classmethod
    def of(cls, params: SamplingParams, vocab_size: int) -> RowLists:
        """A token that the model does not have cannot be drawn: nothing to do for it."""
        bias = {i: value for i, value in params.logit_bias.items() if 0 <= i < vocab_size}
        stop_ids = {i for i in params.stop_token_ids if 0 <= i < vocab_size}
        allowed_ids = {i for i in params.allowed_token_ids or () if 0 <= i < vocab_size}
        return cls(
            np.fromiter(bias.keys(), dtype=np.int64),
            np.fromiter(bias.values(), dtype=np.float32),
            np.fromiter(stop_ids, dtype=np.int64),
            np.fromiter(allowed_ids, dtype=np.int64),
            BadWords.of(params.bad_words, vocab_size),
        )


class RowTable:
    """Parameters by row; void until `start`."""

    def __init__(self, max_num_seqs: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._last_params: SamplingParams | None = None
        self._numbers = np.zeros(max_num_seqs, dtype=_ROW)
        self._lists: list[RowLists | None] = [None] * max_num_seqs

    def start(self, row_start: RowStart) -> None:
        params = row_start.sampling
        vocab_size = self._vocab_size
        top_k = min(params.top_k, vocab_size) if params.top_k > 0 else vocab_size
        method = _method(params, top_k, vocab_size)
        if params is not self._last_params:
            # Lists may be long, and the prompts and choices of one request share them.
            self._last_lists = RowLists.of(params, vocab_size)
            self._last_params = params
        lists = self._last_lists
        penalized = _uses_penalties(params)
        self._numbers[row_start.row] = (
            choice_stream(params.seed, row_start.index),
            method,
            _width(top_k, vocab_size) if method == DrawMethod.BEST else vocab_size,
            penalized,
            len(lists.bias) > 0,
            len(lists.allowed_ids) > 0,
            len(lists.bad_words.last_ids) > 0,
            penalized or lists.bad_words.earlier.size > 0,
            params.temperature,
            -math.log(params.min_p) if params.min_p > 0 else math.inf,
            top_k,
            min(params.top_p, 1.0),
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
            row_start.num_prompt_tokens,
            row_start.num_prompt_tokens + params.min_tokens if len(lists.stop_ids) else 0,
            -1 if params.logprobs is None else min(params.logprobs, vocab_size),
        )
        self._lists[row_start.row] = lists

    def numbers(self, rows: IntArray) -> Numbers:
        """The table's entries for `rows`: a copy."""
        numbers: Numbers = self._numbers[rows]
        return numbers

    def lists(self, row: int) -> RowLists:
        lists = self._lists[row]
        assert lists is not None, f"row {row} was never started"
        return lists


def _method(params: SamplingParams, top_k: int, vocab_size: int) -> DrawMethod:
    if params.temperature < _MIN_TEMPERATURE or top_k == 1 or params.top_p <= 0:
        return DrawMethod.GREEDY
    if top_k < vocab_size:
        return DrawMethod.BEST
    return DrawMethod.NUCLEUS if params.top_p < 1 else DrawMethod.ALL


def _width(top_k: int, vocab_size: int) -> int:
    return next((width for width in _WIDTHS if top_k <= width < vocab_size), vocab_size)


def _uses_penalties(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )
