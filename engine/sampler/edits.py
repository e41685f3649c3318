"""What happens to the logits before the temperature, and what rows must remember for it.

Order: penalties, logit bias, allowed tokens, bad words, min_tokens. Only queues work on the device;
what was drawn last may not be known to the host. A stage that no row needs is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.batch import RowStart
from engine.sampler import stages
from engine.sampler.history import History
from engine.sampler.occurrences import Occurrences
from engine.sampler.rows import Numbers, RowTable
from engine.sampler.transfer import IntArray, columns_to_device, to_device


class Edits:
    """The edits that rows asked for, and the tokens of the rows whose edits depend on them.

    Below, `members` are places in the batch, `rows` the rows that lie there.
    """

    def __init__(
        self, table: RowTable, max_num_seqs: int, vocab_size: int, device: torch.device
    ) -> None:
        self._table = table
        self._max_num_seqs = max_num_seqs
        self._vocab_size = vocab_size
        self._device = device
        # On the device from the start of the row on: a list may be as long as the vocabulary.
        self._allowed_ids: list[Tensor | None] = [None] * max_num_seqs
        # These are large, and most servers never need them.
        self._history: History | None = None
        self._occurrences: Occurrences | None = None

    def start(self, row_start: RowStart) -> None:
        """A sequence enters a row whose parameters are in the table."""
        row = row_start.row
        allowed_ids = self._table.lists(row).allowed_ids
        self._allowed_ids[row] = to_device(allowed_ids, self._device) if len(allowed_ids) else None
        numbers = self._table.numbers(np.array([row]))[0]
        if not numbers["keeps_history"]:
            return
        token_ids = to_device(np.array(row_start.token_ids, dtype=np.int64), self._device)
        if self._history is None:
            self._history = History(self._max_num_seqs, self._device)
        self._history.start(row, token_ids)
        if numbers["penalized"]:
            if self._occurrences is None:
                self._occurrences = Occurrences(self._max_num_seqs, self._vocab_size, self._device)
            self._occurrences.start(row, token_ids, row_start.num_prompt_tokens)

    def apply(
        self, logits: Tensor, rows: IntArray, numbers: Numbers, positions: IntArray
    ) -> Tensor:
        """The edited logits: a copy, or `logits` as they are when no row has an edit.

        A row always keeps a candidate. The allowed tokens hold in any case. Where all of them are
        forbidden, stop tokens that come too early are drawn first, then bad words, and of equals
        each is as likely as the other (greedy: the lowest id).
        """
        penalized = np.flatnonzero(numbers["penalized"])
        biased = np.flatnonzero(numbers["biased"])
        restricted = np.flatnonzero(numbers["restricted"])
        censored = np.flatnonzero(numbers["censored"])
        too_early = np.flatnonzero(positions < numbers["min_position"])
        if not any(map(len, (penalized, biased, restricted, censored, too_early))):
            return logits
        logits = logits.clone()
        if len(penalized):
            self._penalize(logits, penalized, rows, numbers, positions)
        if len(biased):
            self._add_bias(logits, biased, rows)
        if len(restricted):
            self._restrict(logits, restricted, rows)
        if len(censored):
            self._forbid_bad_words(logits, censored, rows, numbers, positions)
        if len(too_early):
            self._forbid_stop_tokens(logits, too_early, rows)
        return logits

    def remember(
        self, rows: IntArray, numbers: Numbers, positions: IntArray, token_ids: Tensor
    ) -> None:
        """Take in the tokens drawn at `positions`, for the rows whose next draw looks at them."""
        keeping = np.flatnonzero(numbers["keeps_history"])
        if not len(keeping):
            return
        assert self._history is not None
        where = np.stack([keeping, rows[keeping], positions[keeping]])
        index, row_index, position_index = to_device(where, self._device)
        length = int(positions[keeping].max()) + 1
        self._history.add(row_index, position_index, token_ids[index], length)
        penalized = np.flatnonzero(numbers["penalized"])
        if len(penalized):
            assert self._occurrences is not None
            where = np.stack([penalized, rows[penalized]])
            index, row_index = to_device(where, self._device)
            self._occurrences.add(row_index, token_ids[index])

    def _penalize(
        self,
        logits: Tensor,
        members: IntArray,
        rows: IntArray,
        numbers: Numbers,
        positions: IntArray,
    ) -> None:
        """Only the tokens of the sequence can be penalized: the others are not looked at."""
        assert self._history is not None and self._occurrences is not None
        row_index = to_device(rows[members], self._device)
        token_ids = self._history.first(row_index, int(positions[members].max()))
        occurred = self._occurrences.of(row_index, token_ids)
        at = (to_device(members, self._device)[:, None], token_ids)
        names = ("repetition", "presence", "frequency")
        penalties = columns_to_device([numbers[name][members] for name in names], self._device)
        # A token listed twice is written twice, with one value.
        logits[at] = stages.penalize(logits[at], *occurred, *penalties)

    def _add_bias(self, logits: Tensor, members: IntArray, rows: IntArray) -> None:
        lists = [self._table.lists(row) for row in rows[members]]
        flat_ids = self._flat_ids(members, [row.bias_ids for row in lists])
        bias = np.concatenate([row.bias for row in lists])
        stages.add_bias(logits, flat_ids, to_device(bias, self._device))

    def _restrict(self, logits: Tensor, members: IntArray, rows: IntArray) -> None:
        flat_ids = []
        for i, row in zip(members.tolist(), rows[members].tolist(), strict=True):
            allowed_ids = self._allowed_ids[row]
            assert allowed_ids is not None
            flat_ids.append(allowed_ids + i * self._vocab_size)
        stages.restrict(logits, to_device(members, self._device), torch.cat(flat_ids))

    def _forbid_bad_words(
        self,
        logits: Tensor,
        members: IntArray,
        rows: IntArray,
        numbers: Numbers,
        positions: IntArray,
    ) -> None:
        last_ids, tokens = [], []
        num_words = 0
        for i in members.tolist():
            row, position = int(rows[i]), int(positions[i])
            words = self._table.lists(row).bad_words
            places, expected = words.lookups(position, int(numbers["num_prompt_tokens"][i]))
            row_column = np.full_like(places, row)
            tokens.append(np.stack([words.earlier[0] + num_words, row_column, places, expected]))
            last_ids.append(words.last_ids)
            num_words += len(words.last_ids)
        flat_ids = self._flat_ids(members, last_ids)
        levels = torch.full_like(flat_ids, stages.BAD_WORD, dtype=logits.dtype)
        looked_up = np.concatenate(tokens, axis=1)
        if looked_up.size:  # else all words have one token
            assert self._history is not None
            word, row_index, place, expected_ids = to_device(looked_up, self._device)
            stages.spare(levels, word, self._history.at(row_index, place) != expected_ids)
        stages.forbid(logits, flat_ids, levels)

    def _forbid_stop_tokens(self, logits: Tensor, members: IntArray, rows: IntArray) -> None:
        stop_ids = [self._table.lists(row).stop_ids for row in rows[members]]
        flat_ids = self._flat_ids(members, stop_ids)
        levels = torch.full_like(flat_ids, stages.TOO_EARLY, dtype=logits.dtype)
        stages.forbid(logits, flat_ids, levels)

    def _flat_ids(self, members: IntArray, id_lists: list[IntArray]) -> Tensor:
        """Where the ids lie in the flattened logits: on the device."""
        flat_ids = [i * self._vocab_size + ids for i, ids in zip(members, id_lists, strict=True)]
        return to_device(np.concatenate(flat_ids), self._device)
