"""The heart of the engine: schedule, run, update. Synchronous, single-threaded, no I/O, no torch.

Knows nothing of processes, text or HTTP; the runner is a Protocol. Standard library only.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from engine.batch import Batch, Handle, Runner
from engine.config import SchedulerConfig
from engine.request import ChoiceOutput, Request
from engine.scheduling.faults import FaultIsolation, trial_batch
from engine.scheduling.scheduler import Scheduler
from engine.stats import STEP_TOKEN_BOUNDS, EngineStats


class EngineCore:
    """Drives a runner through the steps of all requests.

    With `max_launches` above one (None: as the runner likes it), the next step is launched before
    the last one's tokens are known: the device never waits for the host. A request that makes the
    runner raise fails alone; `step` raises when the runner can do nothing at all any more.
    `on_start` is told of requests just before they, or more choices of them, are launched for the
    first time.
    """

    def __init__(
        self,
        runner: Runner,
        config: SchedulerConfig,
        max_launches: int | None = None,
        on_start: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.scheduler = Scheduler(config)
        self._runner = runner
        self._on_start = on_start
        self._faults = FaultIsolation(config.max_num_batched_tokens)
        self._max_launches = max_launches or runner.max_launches
        self._launched: deque[tuple[Batch, Handle, float]] = deque()
        self._last_wait = 0.0
        self._num_steps = 0
        self._step_tokens = [0] * (len(STEP_TOKEN_BOUNDS) + 1)
        self._num_step_tokens = 0
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    @property
    def is_isolating(self) -> bool:
        """Whether a step failed and it is not known yet because of whom."""
        return self._faults.is_isolating

    def add(self, request: Request) -> None:
        self._num_prompt_tokens += len(request.prompt_token_ids)
        self.scheduler.add(request)

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.scheduler.abort(request_id, index)

    def step(self) -> list[ChoiceOutput]:
        """Launch what can be launched, wait for the oldest launch, report what it brought."""
        self._restrict()
        max_launches = 1 if self._faults.is_isolating else self._max_launches
        while len(self._launched) < max_launches:
            batch = self.scheduler.schedule()
            if not batch.rows:
                break
            self._tell_started()
            started = time.monotonic()  # a launch may do all the work
            try:
                handle = self._runner.launch(batch)
            except Exception as error:
                return self._recover(error, [batch])
            self._launched.append((batch, handle, started))
        if not self._launched:
            return []
        batch, handle, started = self._launched.popleft()
        try:
            row_outputs = handle.wait()
        except Exception as error:
            return self._recover(error, [batch, *self._give_up_launches()])
        now = time.monotonic()
        self.scheduler.pacer.observe(batch, now - max(started, self._last_wait))
        self._last_wait = now
        outputs = self.scheduler.update(batch, row_outputs)
        self._num_steps += 1
        num_tokens = batch.num_tokens
        self._step_tokens[bisect_left(STEP_TOKEN_BOUNDS, num_tokens)] += 1
        self._num_step_tokens += num_tokens
        self._num_generated_tokens += sum(len(output.token_ids) for output in outputs)
        self._faults.passed()
        return outputs

    def _recover(self, error: Exception, batches: list[Batch]) -> list[ChoiceOutput]:
        """The first of these launches raised, which voids the others. Reports who is refused."""
        sequences = self.scheduler.void(batches)
        failure = self._faults.failed(error, batches[0], sequences)
        outputs = []
        if failure is not None:
            self._run_trial()
            outputs = self.scheduler.fail(sequences[0].request.request_id, failure)
        return outputs

    def _give_up_launches(self) -> list[Batch]:
        """Let the device finish what was launched after a failure; the results are void."""
        batches = []
        while self._launched:
            batch, handle, _ = self._launched.popleft()
            batches.append(batch)
            with suppress(Exception):
                handle.wait()
        return batches

    def _run_trial(self) -> None:
        """Raise if even the smallest step does: then no request is to blame."""
        place = self.scheduler.spare_place()
        if place is not None:
            self._runner.launch(trial_batch(*place)).wait()

    def _restrict(self) -> None:
        """Let the next step compute what the faults' policy wants to see."""
        self._faults.next_group()
        self.scheduler.budget.allowed = self._faults.allowed
        self.scheduler.budget.max_tokens = self._faults.max_tokens

    def _tell_started(self) -> None:
        if self.scheduler.started:
            started, self.scheduler.started = self.scheduler.started, []
            if self._on_start is not None:
                self._on_start(started)

    def stats(self) -> EngineStats:
        pool = self.scheduler.pool
        speculation = self.scheduler.speculation
        waiting = self.scheduler.waiting
        return EngineStats(
            num_running=len(self.scheduler.running),
            num_waiting=len(waiting),
            num_deferred=sum(s.parent is not None or s.awaits_decision for s in waiting),
            num_blocks_used=pool.num_used,
            num_blocks_cached=pool.num_cached,
            num_blocks_total=pool.num_blocks,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_started_tokens=self.scheduler.num_started_tokens,
            num_cached_tokens=self.scheduler.num_cached_tokens,
            num_looked_up_tokens=self.scheduler.num_looked_up_tokens,
            num_generated_tokens=self._num_generated_tokens,
            step_tokens=tuple(self._step_tokens),
            num_step_tokens=self._num_step_tokens,
            num_preemptions=self.scheduler.num_preemptions,
            num_drafts=speculation.num_drafts,
            num_draft_rounds=speculation.num_rounds,
            num_right_drafts=speculation.num_right,
            right_by_position=speculation.right_by_position,
            num_failed_steps=self._faults.num_failed_steps,
        )
