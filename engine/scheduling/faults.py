"""When a step raises: which request made it, and what to do with the others.

Suspects are the requests of the failed step. Halves of them are computed apart, until one alone
fails again: that one is refused. Where none does, all go on, with smaller steps if it happens
again. Out of memory, steps are made smaller first. Decides only; `core.py` acts. Standard library
only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from engine.batch import Batch, RowStart, ScheduledRow
from engine.request import Failure, FinishReason, SamplingParams
from engine.scheduling.sequence import Sequence

# Failures in a row that no request reproduced, after which the engine itself is taken to be broken.
MAX_UNEXPLAINED = 8
# Good steps after which an unexplained failure is forgotten, and smaller steps may grow for the
# first time. A failure takes back what was computed: each growth takes twice as many as the last.
NUM_GOOD_STEPS = 64

OUT_OF_MEMORY = Failure(
    "out_of_memory",
    "The engine has not enough memory for this request, even when it computes nothing else. "
    "Shorten the prompt, or ask for less beside the text, such as log-probabilities.",
)
STEP_FAILED = Failure(
    "step_failed",
    "The engine failed on this request, and again when it computed nothing else. The server's log "
    "has the reason.",
)

logger = logging.getLogger("octavo.engine")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether more memory would have helped. torch's error is known by its name: no torch here."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


def trial_batch(row: int, block_id: int) -> Batch:
    """The smallest step, in a row and a page that nobody uses: does the engine work at all?"""
    sampling = SamplingParams(temperature=0.0, max_tokens=1)
    return Batch(
        starts=[RowStart(row, 0, sampling, [0], num_prompt_tokens=1)],
        rows=[ScheduledRow(row, 0, 1, [0], 0, [block_id], sample=True)],
    )


@dataclass(slots=True)
class Suspect:
    """A request of a failed step. It is cleared when its sequences have got past that step."""

    request_id: str
    goals: dict[Sequence, int]  # positions that have to be computed

    @property
    def is_cleared(self) -> bool:
        return all(
            sequence.finish_reason is not None or sequence.num_computed_tokens >= goal
            for sequence, goal in self.goals.items()
        )

    @property
    def has_left(self) -> bool:
        """Whether its reader gave it up, so that nobody will know whether it was the one."""
        return any(sequence.finish_reason is FinishReason.ABORT for sequence in self.goals)


class FaultIsolation:
    """Finds out by trying. While it does (`is_isolating`), only one step may be under way.

    `allowed` are the requests that may be computed now, None for all; `max_tokens` is the largest
    step, None for the configured one. `num_failed_steps` counts.
    """

    def __init__(self, max_num_batched_tokens: int) -> None:
        self.max_tokens: int | None = None
        self.num_failed_steps = 0
        self._most_tokens = max_num_batched_tokens
        self._groups: deque[list[Suspect]] = deque()  # the first is being tried
        self._has_found = False  # somebody who did it, or may have, since the isolation began
        self._failed_tokens = 0  # in the step that began it
        self._num_unexplained = 0
        self._num_good = 0
        self._num_good_wanted = NUM_GOOD_STEPS

    @property
    def is_isolating(self) -> bool:
        return bool(self._groups)

    @property
    def allowed(self) -> frozenset[str] | None:
        if not self._groups:
            return None
        return frozenset(s.request_id for s in self._groups[0] if not s.is_cleared)

    def failed(self, error: Exception, batch: Batch, sequences: list[Sequence]) -> Failure | None:
        """A step of these sequences raised: why to refuse its only request, None to go on trying.

        Raises `error` when nothing helps: the engine is broken.
        """
        self._num_good = 0
        self.num_failed_steps += 1
        if is_out_of_memory(error) and batch.num_tokens > 1:
            self.max_tokens = batch.num_tokens // 2
            logger.warning("a step of %d tokens ran out of memory", batch.num_tokens)
            return None
        suspects = _suspects(batch, sequences)
        tried = {s.request_id: s for s in self._groups[0]} if self._groups else {}
        if not suspects.keys() <= tried.keys():
            self._begin(error, batch, suspects)
            return None
        self._groups.popleft()
        if len(suspects) == 1:
            self._has_found = True
            self._try_later([s for s in tried.values() if s.request_id not in suspects])
            logger.error(
                "request %s is refused: the step failed with it alone: %s",
                *suspects,
                f"{type(error).__name__}: {error}",
            )
            return OUT_OF_MEMORY if is_out_of_memory(error) else STEP_FAILED
        self._try_later([s for s in tried.values() if s.request_id not in suspects])
        self._split([tried[request_id] for request_id in suspects])
        return None

    def passed(self) -> None:
        """A step was good."""
        if self.is_isolating:
            return
        self._num_good += 1
        if self._num_good % NUM_GOOD_STEPS == 0:
            self._num_unexplained = 0
        if self._num_good < self._num_good_wanted:
            return
        self._num_good = 0
        if self.max_tokens is None:
            self._num_good_wanted = NUM_GOOD_STEPS
            return
        self._num_good_wanted *= 2
        self.max_tokens *= 2
        if self.max_tokens >= self._most_tokens:
            self.max_tokens = None

    def next_group(self) -> None:
        """Go on to the next group whose members are not all cleared or gone, or end."""
        if not self._groups:
            return
        while self._groups and not self.allowed:
            self._has_found |= any(suspect.has_left for suspect in self._groups.popleft())
        if self._groups:
            return
        if not self._has_found:
            self._num_unexplained += 1
            logger.warning("no request makes the step fail again; all go on")
            if self._num_unexplained > 1:
                self.max_tokens = max(self._failed_tokens // 2, 1)

    def _begin(self, error: Exception, batch: Batch, suspects: dict[str, Suspect]) -> None:
        if self._num_unexplained >= MAX_UNEXPLAINED:
            raise error
        logger.error(
            "a step with %d requests failed; looking for the one", len(suspects), exc_info=error
        )
        # Of a failure before: launches were under way that came back later.
        earlier = {s.request_id: s for group in self._groups for s in group}
        self._groups.clear()
        self._has_found = False
        self._failed_tokens = batch.num_tokens
        self._split(list({**earlier, **suspects}.values()))

    def _split(self, suspects: list[Suspect]) -> None:
        middle = len(suspects) // 2
        self._try_later(suspects[middle:])
        self._try_later(suspects[:middle])

    def _try_later(self, group: list[Suspect]) -> None:
        """Before those that are to be tried already."""
        if group:
            self._groups.appendleft(group)


def _suspects(batch: Batch, sequences: Iterable[Sequence]) -> dict[str, Suspect]:
    suspects: dict[str, Suspect] = {}
    for sequence, row in zip(sequences, batch.rows, strict=True):
        request_id = sequence.request.request_id
        suspect = suspects.setdefault(request_id, Suspect(request_id, {}))
        suspect.goals[sequence] = row.start + row.num_tokens - row.num_drafts
    return suspects
