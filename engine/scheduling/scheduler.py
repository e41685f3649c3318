"""Decides what each step computes: who runs, how many tokens of each, who waits, who gives way.

No phases: a sequence has uncomputed tokens, and a step computes some of them under a token budget.
First in `Sequence.order` goes first: lower priority numbers, then tenants in turns (`turns.py`).
Out of pages, the last in that order is preempted and computed again later; nobody is preempted
merely to let another in. May be asked for the next step before the results of the last one are
known. Standard library only.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque

from engine.batch import Batch, RowOutput, ScheduledRow
from engine.config import SchedulerConfig
from engine.request import ChoiceOutput, Failure, FinishReason, Request
from engine.scheduling.beam_group import BeamGroup
from engine.scheduling.block_pool import BlockPool
from engine.scheduling.budget import StepBudget
from engine.scheduling.outputs import beam_outputs, failure, take_in
from engine.scheduling.pacing import Pacer
from engine.scheduling.prefix_cache import PrefixCache, Reuse
from engine.scheduling.rows import plan_row, take_back_row
from engine.scheduling.sequence import Sequence
from engine.scheduling.speculation import Speculation
from engine.scheduling.turns import Turns


def _order(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.order


class Scheduler:
    """Keeps all unfinished sequences in two lists, in order: `waiting` and `running`."""

    def __init__(self, config: SchedulerConfig) -> None:
        assert config.max_model_len <= config.num_blocks * config.block_size, (
            "one sequence must fit into the pool"
        )
        self.config = config
        self.pool = BlockPool(config.num_blocks)
        self.prefix_cache = PrefixCache(self.pool, config.block_size, config.enable_prefix_caching)
        self.speculation = Speculation(config, self.pool)
        self.pacer = Pacer(config)
        self.budget = StepBudget(config, self.pacer)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self.num_looked_up_tokens = 0
        self.num_started_tokens = 0
        self.started: list[str] = []  # requests that run for the first time, until taken by core
        self._sequences: dict[str, list[Sequence]] = {}  # unfinished, by request
        self._groups: dict[str, BeamGroup] = {}  # of the beam searches among them
        self._copies: dict[int, int] = {}  # pages to copy first in the next batch: target, source
        self._free_rows = list(range(config.max_num_seqs))
        self._launched: deque[list[Sequence]] = deque()
        self._releasing: set[Sequence] = set()  # to give up row and pages after a launch under way
        self._num_arrivals = 0
        self._turns = Turns()

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._launched)

    def add(self, request: Request) -> None:
        """Queue all choices of a request; choice 0 computes the prompt for the others.

        Of a beam search only the first beam: the others come into being after its prompt.
        """
        assert request.prompt_token_ids, "an empty prompt has nothing to start from"
        assert request.request_id not in self._sequences, "a request id is in use"
        turn = self._turns.enter(request)
        first = Sequence(request, 0, self._num_arrivals, turn=turn)
        sequences = [first]
        if first.is_beam:
            self._groups[request.request_id] = BeamGroup(first, self.config)
        else:
            others = range(1, request.n)
            arrivals = self._num_arrivals
            sequences += [Sequence(request, i, arrivals + i, first, turn) for i in others]
        self._num_arrivals += request.n
        self._sequences[request.request_id] = sequences
        for sequence in sequences:
            insort(self.waiting, sequence, key=_order)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request or one choice of it, without an output. Unknown ones are ignored.

        So is one choice of a beam search: before the end no beam belongs to a choice.
        """
        if index is not None and request_id in self._groups:
            return
        for sequence in list(self._sequences.get(request_id, ())):
            if index is None or sequence.index == index:
                self._finish(sequence, FinishReason.ABORT)

    def schedule(self) -> Batch:
        """Plan the next step. The batch has no rows when there is nothing to launch now."""
        batch = Batch()
        counts = self._plan(batch)
        while not counts and self.running and not self._launched:
            # All that run are beams waiting for others of their groups, which find no room.
            self._preempt(self.running[-1])
            counts = self._plan(batch)
        if counts:
            batch.copies[:0] = [(source, target) for target, source in self._copies.items()]
            self._copies.clear()
            drafts = {}
            if not self.budget.is_restricted:
                drafts = self.speculation.plan(counts, len(self.running))
            batch.rows = [
                self._plan_row(batch, sequence, num_tokens, drafts.get(sequence, []))
                for sequence, num_tokens in counts.items()
            ]
            self._launched.append(list(counts))
        return batch

    def update(self, batch: Batch, outputs: list[RowOutput]) -> list[ChoiceOutput]:
        """Take in the results of the oldest launch not yet waited for."""
        sequences = self._launched.popleft()
        assert len(sequences) == len(batch.rows) == len(outputs)
        choice_outputs = []
        for sequence, row, output in zip(sequences, batch.rows, outputs, strict=True):
            sequence.num_launches -= 1
            if row.sample and not sequence.is_beam:
                sequence.num_pending_tokens -= 1
            if sequence.finish_reason is None:  # else: a late result of a finished sequence
                choice_outputs += self._take_in(sequence, row, output)
            if sequence in self._releasing:
                self._release(sequence)
        for request_id in {s.request.request_id: None for s in sequences if s.awaits_decision}:
            if request_id in self._groups and self._groups[request_id].is_ready:
                choice_outputs += self._decide(self._groups[request_id])
        return choice_outputs

    def void(self, batches: list[Batch]) -> list[Sequence]:
        """Take back the newest launches, given in their order: nothing that they did counts.

        What they computed is computed again. Returns the sequences of the first of them.
        """
        sequences: list[Sequence] = []
        involved: dict[Sequence, None] = {}
        targets: set[int] = set()
        for batch in reversed(batches):
            sequences = self._launched.pop()
            for sequence, row in zip(sequences, batch.rows, strict=True):
                take_back_row(sequence, row)
                self.prefix_cache.forget(sequence, row.start)
            involved.update(dict.fromkeys(sequences))
            targets.update(target for _, target in batch.copies)
        for sequence in list(self.running):
            if sequence in involved or sequence.block_ids[-1] in targets:
                self._preempt(sequence)
        for sequence in involved:
            if sequence in self._releasing:
                self._release(sequence)
        return sequences

    def fail(self, request_id: str, error: Failure) -> list[ChoiceOutput]:
        """End a request with an error; what to report of its unfinished choices."""
        sequences = list(self._sequences.get(request_id, ()))
        for sequence in sequences:
            self._finish(sequence, FinishReason.ERROR)
        if sequences and sequences[0].is_beam:
            return failure(sequences[0], error)
        return [output for sequence in sequences for output in failure(sequence, error)]

    def spare_place(self) -> tuple[int, int] | None:
        """A row and a page that nobody uses; what the page held is void. None without any."""
        block_ids = self.pool.allocate(1) if self._free_rows else None
        if block_ids is None:
            return None
        self.pool.free(block_ids)
        return self._free_rows[-1], block_ids[0]

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
            assert queue == sorted(queue, key=_order), "a queue is out of order"
        unfinished = {s for sequences in self._sequences.values() for s in sequences}
        assert unfinished == {*self.waiting, *self.running}, "a sequence is in no queue"
        for request_id, group in self._groups.items():
            group.check_integrity(self._sequences[request_id])
        last_blocks = {sequence.block_ids[-1] for sequence in self.running}
        assert set(self._copies) <= last_blocks, "a copy outlived the owner of its target"
        self.prefix_cache.check_integrity(self.running)

    # The plan of a step

    def _plan(self, batch: Batch) -> dict[Sequence, int]:
        """How many tokens to compute of whom, with blocks for them."""
        counts, budget = self.budget.share(self.running)
        if self._reserve_blocks(counts):
            self._admit(batch, counts, budget)
        return counts

    def _reserve_blocks(self, counts: dict[Sequence, int]) -> bool:
        """Give each planned sequence its blocks, in order, preempting the last one for them.

        False when blocks were short: then nobody new is let in.
        """
        enough = True
        for sequence in sorted(counts, key=_order):
            if sequence not in counts:
                continue  # preempted for one before it
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

    def _admit(self, batch: Batch, counts: dict[Sequence, int], budget: int) -> None:
        """Let waiting sequences in, in order, while tokens, rows and blocks last."""
        if not self.waiting or budget <= 0 or not self._free_rows:
            return
        for sequence in list(self.waiting):
            if budget <= 0 or not self._free_rows:
                break
            if sequence in self._releasing or sequence.awaits_decision:
                continue
            if not self.budget.allows(sequence):
                continue
            reuse = self.prefix_cache.find(sequence)
            if reuse is None:
                continue
            num_tokens = min(sequence.num_known_tokens - reuse.num_tokens, budget)
            if not self._start(sequence, reuse, num_tokens, batch):
                break
            counts[sequence] = num_tokens
            budget -= num_tokens

    def _start(self, sequence: Sequence, reuse: Reuse, num_tokens: int, batch: Batch) -> bool:
        """Move a sequence from waiting to running; False when there are not enough blocks."""
        self.pool.share(reuse.block_ids)
        num_shared = len(reuse.block_ids)
        room = self._num_blocks(sequence.num_known_tokens) - num_shared
        if not (sequence.is_beam and sequence.output_token_ids):  # others wait for such a one
            # Room for one more block of each that runs: less would soon preempt what was just
            # let in.
            room += len(self.running)
        if room > self.pool.num_available:
            self.pool.free(reuse.block_ids)
            return False
        block_ids = self.pool.allocate(self._num_blocks(reuse.num_tokens + num_tokens) - num_shared)
        assert block_ids is not None
        if reuse.copy_from is not None:
            batch.copies.append((reuse.copy_from, block_ids[0]))
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = reuse.num_tokens if sequence.index == 0 else 0
            self.num_cached_tokens += sequence.num_cached_tokens
            sequence.started_at = time.monotonic()
            self.num_started_tokens += sequence.num_prompt_tokens if sequence.index == 0 else 0
            reads_cache = self.config.enable_prefix_caching and sequence.prompt_logprobs is None
            if sequence.index == 0 and reads_cache:
                self.num_looked_up_tokens += sequence.num_prompt_tokens
            self.started.append(sequence.request.request_id)
        sequence.block_ids = [*reuse.block_ids, *block_ids]
        sequence.num_computed_tokens = reuse.num_tokens
        sequence.num_registered_blocks = num_shared
        sequence.parent = None
        sequence.row = self._free_rows.pop()
        self._turns.start(sequence.request, sequence.order[1])
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_order)
        self.prefix_cache.claim(sequence)
        return True

    def _plan_row(
        self, batch: Batch, sequence: Sequence, num_tokens: int, drafts: list[int]
    ) -> ScheduledRow:
        row = plan_row(batch, sequence, num_tokens, drafts)
        self.prefix_cache.register(sequence)
        return row

    # What came of it

    def _take_in(
        self, sequence: Sequence, row: ScheduledRow, output: RowOutput
    ) -> list[ChoiceOutput]:
        """What a row brought, and what there is to report of it."""
        if output.error is not None:
            self.prefix_cache.forget(sequence, 0)  # where the invalid numbers may be
            if sequence.is_beam:
                return self.fail(sequence.request.request_id, output.error)
            self._finish(sequence, FinishReason.ERROR)
            return failure(sequence, output.error)
        if output.prompt_logprobs is not None:
            sequence.store_prompt_logprobs(row.start, output.prompt_logprobs)
        if sequence.is_beam:
            if row.sample:
                assert output.logprobs and not sequence.awaits_decision, "a beam reports once"
                sequence.candidates = output.logprobs[0]
            return []
        choice_output = take_in(sequence, row, output, self.config.max_model_len)
        if choice_output is None:
            return []
        self.speculation.settle(sequence, row, output)
        if sequence.row is not None and sequence not in self._releasing:
            self.prefix_cache.register(sequence)
        if choice_output.finish_reason is not None:
            self._finish(sequence, choice_output.finish_reason)
        return [choice_output]

    def _decide(self, group: BeamGroup) -> list[ChoiceOutput]:
        """Let all beams of a group go on, or report its choices when it is over."""
        request_id = group.first.request.request_id
        sequences = self._sequences[request_id]
        forks = group.decide()
        if not group.sequences:
            for sequence in list(sequences):
                self._finish(sequence, FinishReason.LENGTH)
            return beam_outputs(group)
        for sequence in forks:
            assert sequence.parent is not None
            if sequence not in sequences:
                sequences.append(sequence)
                insort(self.waiting, sequence, key=_order)
            elif sequence.row is not None and sequence.parent.row is not None:
                self._copies.update(self.prefix_cache.swap(sequence, sequence.parent))
            elif sequence.row is not None:
                self._leave(sequence, self.running)
                insort(self.waiting, sequence, key=_order)
        return []

    # Moves between the queues

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting, to be computed again; late results of a launch still count."""
        self.num_preemptions += 1
        sequence.num_preemptions += 1
        self._leave(sequence, self.running)
        insort(self.waiting, sequence, key=_order)

    def _finish(self, sequence: Sequence, finish_reason: FinishReason) -> None:
        sequence.finish_reason = finish_reason
        request_id = sequence.request.request_id
        self._sequences[request_id].remove(sequence)
        if not self._sequences[request_id]:
            del self._sequences[request_id]
            self._groups.pop(request_id, None)
            self._turns.leave(sequence.request)
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
        if sequence.block_ids:
            self._copies.pop(sequence.block_ids[-1], None)
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.block_ids = []
        sequence.num_computed_tokens = 0
        sequence.num_sent_blocks = 0
        sequence.num_registered_blocks = 0

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.config.block_size)
