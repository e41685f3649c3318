"""The heart of the engine: schedule, run, update. Synchronous, single-threaded, no I/O, no torch.

Knows nothing of processes, text or HTTP; the runner is a Protocol. Standard library only.
"""

from __future__ import annotations

import time
from collections import deque

from engine.batch import Batch, Handle, Runner
from engine.config import SchedulerConfig
from engine.request import ChoiceOutput, Request
from engine.scheduler import Scheduler
from engine.stats import EngineStats


class EngineCore:
    """Drives a runner through the steps of all requests.

    With `max_launches` above one (None: as the runner likes it), the next step is launched before
    the last one's tokens are known: the device never waits for the host.
    """

    def __init__(
        self, runner: Runner, config: SchedulerConfig, max_launches: int | None = None
    ) -> None:
        self.scheduler = Scheduler(config)
        self._runner = runner
        self._max_launches = max_launches or runner.max_launches
        self._launched: deque[tuple[Batch, Handle, float]] = deque()
        self._last_wait = 0.0
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> None:
        self._num_prompt_tokens += len(request.prompt_token_ids)
        self.scheduler.add(request)

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.scheduler.abort(request_id, index)

    def step(self) -> list[ChoiceOutput]:
        """Launch what can be launched, wait for the oldest launch, report what it brought."""
        while len(self._launched) < self._max_launches:
            batch = self.scheduler.schedule()
            if not batch.rows:
                break
            started = time.monotonic()  # a launch may do all the work
            self._launched.append((batch, self._runner.launch(batch), started))
        if not self._launched:
            return []
        batch, handle, started = self._launched.popleft()
        row_outputs = handle.wait()
        now = time.monotonic()
        self.scheduler.pacer.observe(batch, now - max(started, self._last_wait))
        self._last_wait = now
        outputs = self.scheduler.update(batch, row_outputs)
        self._num_steps += 1
        self._num_generated_tokens += sum(len(output.token_ids) for output in outputs)
        return outputs

    def stats(self) -> EngineStats:
        pool = self.scheduler.pool
        return EngineStats(
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            num_blocks_used=pool.num_used,
            num_blocks_cached=pool.num_cached,
            num_blocks_total=pool.num_blocks,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self.scheduler.num_cached_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_preemptions=self.scheduler.num_preemptions,
            num_drafts=self.scheduler.speculation.num_drafts,
            num_right_drafts=self.scheduler.speculation.num_right,
        )
