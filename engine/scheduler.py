"""Decides what each step computes: who runs, how many tokens of each, who waits, who gives way.

No phases: a sequence has uncomputed tokens, and a step computes some of them under a token budget.
Oldest first; out of pages, the youngest is preempted and computed again later. May be asked for
the next step before the results of the last one are known. Standard library only.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import NamedTuple

from engine.batch import Batch, RowOutput, RowStart, ScheduledRow
from engine.block_pool import BlockPool
from engine.config import SchedulerConfig
from engine.prefix_cache import PrefixCache
from engine.request import ChoiceOutput, Failure, FinishReason, Request
from engine.sequence import Sequence


class _Reuse(NamedTuple):
    """What a sequence need not compute: whole shared blocks, and one to copy the start of."""

    num_tokens: int
    block_ids: list[int]
    copy_from: int | None = None


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


class Scheduler:
    """Keeps all unfinished sequences in two lists by age: `waiting` and `running`."""

    def __init__(self, config: SchedulerConfig) -> None:
        assert config.max_model_len <= config.num_blocks * config.block_size, (
            "one sequence must fit into the pool"
        )
        self.config = config
        self.pool = BlockPool(config.num_blocks)
        self.prefix_cache = PrefixCache(self.pool, config.block_size, config.enable_prefix_caching)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self._sequences: dict[str, list[Sequence]] = {}  # unfinished, by request
        self._free_rows = list(range(config.max_num_seqs))
        self._launched: deque[list[Sequence]] = deque()
        self._releasing: set[Sequence] = set()  # to give up row and pages after a launch under way
        self._num_arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._launched)

    def add(self, request: Request) -> None:
        """Queue all choices of a request; choice 0 computes the prompt for the others."""
        assert request.prompt_token_ids, "an empty prompt has nothing to start from"
        assert request.request_id not in self._sequences, "a request id is in use"
        first = Sequence(request, 0, self._num_arrivals)
        others = (Sequence(request, i, self._num_arrivals + i, first) for i in range(1, request.n))
        sequences = [first, *others]
        self._num_arrivals += request.n
        self._sequences[request.request_id] = sequences
        self.waiting.extend(sequences)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request or one choice of it, without an output. Unknown ones are ignored."""
        for sequence in list(self._sequences.get(request_id, ())):
            if index is None or sequence.index == index:
                self._finish(sequence, FinishReason.ABORT)

    def schedule(self) -> Batch:
        """Plan the next step. The batch has no rows when there is nothing to launch now."""
        batch = Batch()
        counts = self._share_budget()
        if self._reserve_blocks(counts):
            self._admit(batch, counts)
        for sequence, num_tokens in counts.items():
            batch.rows.append(self._plan_row(sequence, num_tokens))
            self.prefix_cache.register(sequence)
        if counts:
            self._launched.append(list(counts))
        return batch

    def update(self, batch: Batch, outputs: list[RowOutput]) -> list[ChoiceOutput]:
        """Take in the results of the oldest launch not yet waited for."""
        sequences = self._launched.popleft()
        assert len(sequences) == len(batch.rows) == len(outputs)
        choice_outputs = []
        for sequence, row, output in zip(sequences, batch.rows, outputs, strict=True):
            sequence.num_launches -= 1
            if row.sample:
                sequence.num_pending_tokens -= 1
            if sequence.finish_reason is None:  # else: a late result of a finished sequence
                choice_output = self._take_in(sequence, row, output)
                if choice_output is not None:
                    choice_outputs.append(choice_output)
            if sequence in self._releasing:
                self._release(sequence)
        return choice_outputs

    def check_integrity(self) -> None:
        """Raise AssertionError unless every page and row has exactly the owners it should have."""
        self.pool.check_integrity()
        holders = [*self.running, *self._releasing]
        rows = [sequence.row for sequence in holders if sequence.row is not None]
        assert len(rows) == len(holders), "a running sequence has no row"
        assert sorted(rows + self._free_rows) == list(range(self.config.max_num_seqs))
        counts: dict[int, int] = {}
        for block_id in (block_id for holder in holders for block_id in holder.block_ids):
            counts[block_id] = counts.get(block_id, 0) + 1
        assert counts == self.pool.ref_counts(), "reference counts disagree with the block tables"
        for sequence in self.waiting:
            assert sequence in self._releasing or not sequence.block_ids, "a waiting owner of pages"
        for queue in (self.waiting, self.running):
            assert queue == sorted(queue, key=_arrival), "a queue is out of order"
        unfinished = {s for sequences in self._sequences.values() for s in sequences}
        assert unfinished == {*self.waiting, *self.running}, "a sequence is in no queue"
        self.prefix_cache.check_integrity(self.running)

    # The plan of a step

    def _share_budget(self) -> dict[Sequence, int]:
        """Tokens for each running sequence: single ones before long ones, then oldest first."""
        budget = self.config.max_num_batched_tokens
        counts: dict[Sequence, int] = {}
        ready = [sequence for sequence in self.running if self._can_advance(sequence)]
        for sequence in sorted(ready, key=lambda sequence: sequence.num_uncomputed_tokens > 1):
            if budget > 0:
                counts[sequence] = min(sequence.num_uncomputed_tokens, budget)
                budget -= counts[sequence]
        return counts

    def _can_advance(self, sequence: Sequence) -> bool:
        """Whether it needs another token computed, as far as can be known before late results."""
        num_outputs = len(sequence.output_token_ids) + sequence.num_pending_tokens
        is_full = (
            num_outputs >= sequence.sampling.max_tokens
            or sequence.num_tokens >= self.config.max_model_len
        )
        prompt_is_computed = sequence.num_computed_tokens >= sequence.num_prompt_tokens
        return sequence.num_uncomputed_tokens > 0 and not (is_full and prompt_is_computed)

    def _reserve_blocks(self, counts: dict[Sequence, int]) -> bool:
        """Give each planned sequence its blocks, oldest first, preempting the youngest for them.

        False when blocks were short: then nobody new is let in.
        """
        enough = True
        for sequence in sorted(counts, key=_arrival):
            if sequence not in counts:
                continue  # preempted for an older one
            needed = self._num_blocks(sequence.num_computed_tokens + counts[sequence])
            needed -= len(sequence.block_ids)
            while (block_ids := self.pool.allocate(needed)) is None:
                enough = False
                if self._releasing:
                    break  # blocks come back with the launch under way
                victim = self.running[-1]
                counts.pop(victim, None)
                self._preempt(victim)
                if victim is sequence:
                    break
            if block_ids is None:
                counts.pop(sequence, None)
            else:
                sequence.block_ids.extend(block_ids)
        return enough

    def _admit(self, batch: Batch, counts: dict[Sequence, int]) -> None:
        """Let waiting sequences in, oldest first, while tokens, rows and blocks last."""
        budget = self.config.max_num_batched_tokens - sum(counts.values())
        if not self.waiting or budget <= 0 or not self._free_rows:
            return
        for sequence in list(self.waiting):
            if budget <= 0 or not self._free_rows:
                break
            reuse = self._find_reuse(sequence)
            if reuse is None:
                continue
            num_tokens = min(sequence.num_known_tokens - reuse.num_tokens, budget)
            if not self._start(sequence, reuse, num_tokens, batch):
                break
            counts[sequence] = num_tokens
            budget -= num_tokens

    def _find_reuse(self, sequence: Sequence) -> _Reuse | None:
        """What need not be computed; None when it is worth waiting for another to compute it."""
        if sequence in self._releasing:
            return None
        parent = sequence.parent
        if parent is not None and parent.finish_reason is None and not sequence.output_token_ids:
            if parent.num_computed_tokens < parent.num_prompt_tokens:
                return None
            return self._fork(parent)
        block_ids = [] if sequence.wants_prompt_logprobs else self.prefix_cache.find(sequence)
        if block_ids is None:
            return None
        return _Reuse(len(block_ids) * self.config.block_size, block_ids)

    def _fork(self, parent: Sequence) -> _Reuse:
        """All of the parent's prompt but the last token, which brings the fork its own logits."""
        num_tokens = parent.num_prompt_tokens - 1
        num_shared, num_copied = divmod(num_tokens, self.config.block_size)
        copy_from = parent.block_ids[num_shared] if num_copied else None
        return _Reuse(num_tokens, parent.block_ids[:num_shared], copy_from)

    def _start(self, sequence: Sequence, reuse: _Reuse, num_tokens: int, batch: Batch) -> bool:
        """Move a sequence from waiting to running; False when there are not enough blocks."""
        self.pool.share(reuse.block_ids)
        num_shared = len(reuse.block_ids)
        # Room for all its tokens, and for one more block of each that runs: less would soon
        # preempt what was just let in.
        room = self._num_blocks(sequence.num_known_tokens) - num_shared + len(self.running)
        if room > self.pool.num_available:
            self.pool.free(reuse.block_ids)
            return False
        block_ids = self.pool.allocate(self._num_blocks(reuse.num_tokens + num_tokens) - num_shared)
        assert block_ids is not None
        if reuse.copy_from is not None:
            batch.copies.append((reuse.copy_from, block_ids[0]))
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = reuse.num_tokens if sequence.parent is None else 0
            self.num_cached_tokens += sequence.num_cached_tokens
        sequence.block_ids = [*reuse.block_ids, *block_ids]
        sequence.num_computed_tokens = reuse.num_tokens
        sequence.num_registered_blocks = num_shared
        sequence.row = self._free_rows.pop()
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_arrival)
        self.prefix_cache.claim(sequence)
        batch.starts.append(
            RowStart(
                row=sequence.row,
                index=sequence.index,
                sampling=sequence.sampling,
                token_ids=sequence.token_ids(0, sequence.num_known_tokens),
                num_prompt_tokens=sequence.num_prompt_tokens,
            )
        )
        return True

    def _plan_row(self, sequence: Sequence, num_tokens: int) -> ScheduledRow:
        assert sequence.row is not None
        start = sequence.num_computed_tokens
        stop = start + num_tokens
        row = ScheduledRow(
            row=sequence.row,
            start=start,
            num_tokens=num_tokens,
            token_ids=sequence.token_ids(start, min(stop, sequence.num_known_tokens)),
            num_known_blocks=sequence.num_sent_blocks,
            new_block_ids=sequence.block_ids[sequence.num_sent_blocks :],
            sample=stop == sequence.num_tokens and sequence.sampling.max_tokens > 0,
        )
        if sequence.wants_prompt_logprobs:
            row.prompt_targets = sequence.request.prompt_token_ids[start + 1 : stop + 1] or None
        sequence.num_computed_tokens = stop
        sequence.num_sent_blocks = len(sequence.block_ids)
        sequence.num_pending_tokens += row.sample
        sequence.num_launches += 1
        return row

    # What came of it

    def _take_in(
        self, sequence: Sequence, row: ScheduledRow, output: RowOutput
    ) -> ChoiceOutput | None:
        """Append what a launch brought; the output to report, if there is anything to say."""
        if output.error is not None:
            self._finish(sequence, FinishReason.ERROR)
            return self._output(sequence, [], error=output.error)
        if output.prompt_logprobs is not None:
            sequence.store_prompt_logprobs(row.start, output.prompt_logprobs)
        is_first = not sequence.output_token_ids
        token_ids: list[int] = []
        finish_reason = None
        for token_id in output.token_ids:
            sequence.output_token_ids.append(token_id)
            token_ids.append(token_id)
            finish_reason = self._finish_reason(sequence)
            if finish_reason is not None:
                break
        scored = row.start + row.num_tokens >= sequence.num_prompt_tokens
        if sequence.sampling.max_tokens == 0 and scored:
            finish_reason = FinishReason.LENGTH
        if not token_ids and finish_reason is None:
            return None
        if sequence.row is not None and sequence not in self._releasing:
            self.prefix_cache.register(sequence)
        if finish_reason is not None:
            self._finish(sequence, finish_reason)
        choice_output = self._output(sequence, token_ids)
        if output.logprobs is not None:
            choice_output.logprobs = output.logprobs[: len(token_ids)]
        if is_first:
            choice_output.prompt_logprobs = sequence.prompt_logprobs
            choice_output.num_cached_tokens = sequence.num_cached_tokens or 0
        return choice_output

    def _output(
        self, sequence: Sequence, token_ids: list[int], error: Failure | None = None
    ) -> ChoiceOutput:
        stopped = sequence.finish_reason is FinishReason.STOP
        return ChoiceOutput(
            request_id=sequence.request.request_id,
            index=sequence.index,
            token_ids=token_ids,
            finish_reason=sequence.finish_reason,
            stop_token_id=token_ids[-1] if stopped else None,
            error=error,
        )

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        if sequence.output_token_ids[-1] in sequence.sampling.stop_token_ids:
            return FinishReason.STOP
        if (
            len(sequence.output_token_ids) >= sequence.sampling.max_tokens
            or sequence.num_known_tokens >= self.config.max_model_len
        ):
            return FinishReason.LENGTH
        return None

    # Moves between the queues

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting, to be computed again; late results of a launch still count."""
        self.num_preemptions += 1
        self._leave(sequence, self.running)
        insort(self.waiting, sequence, key=_arrival)

    def _finish(self, sequence: Sequence, finish_reason: FinishReason) -> None:
        sequence.finish_reason = finish_reason
        request_id = sequence.request.request_id
        self._sequences[request_id].remove(sequence)
        if not self._sequences[request_id]:
            del self._sequences[request_id]
        is_running = sequence.row is not None and sequence not in self._releasing
        self._leave(sequence, self.running if is_running else self.waiting)

    def _leave(self, sequence: Sequence, queue: list[Sequence]) -> None:
        queue.remove(sequence)
        if queue is self.waiting:
            return
        self.prefix_cache.unclaim(sequence)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Give up row and blocks, after the last launch that uses them."""
        if sequence.num_launches > 0:
            self._releasing.add(sequence)
            return
        assert sequence.row is not None
        self._releasing.discard(sequence)
        self.pool.free(sequence.block_ids)
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.block_ids = []
        sequence.num_computed_tokens = 0
        sequence.num_sent_blocks = 0
        sequence.num_registered_blocks = 0

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.config.block_size)
