"""Random lives of the engine: whatever happens, in whatever order, every choice gets its tokens.

Steps that raise included: for good with a poisoned request, by chance, or out of memory.
The fake runner's outputs depend on every page it reads, so this also proves the block tables.
"""

from __future__ import annotations

import pytest
from fake_runner import (
    VOCAB_SIZE,
    ContractError,
    FakeRunner,
    expected_beams,
    expected_prompt_logprobs,
    expected_tokens,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.batch import Batch
from engine.config import SchedulerConfig
from engine.core import EngineCore
from engine.request import (
    BeamSearch,
    ChoiceOutput,
    FinishReason,
    Request,
    SamplingParams,
    beam_search_blocks,
)
from engine.scheduling.faults import MAX_UNEXPLAINED, STEP_FAILED

BLOCK_SIZE = 4
POISON = VOCAB_SIZE  # a token that is never drawn


class EngineMachine(RuleBasedStateMachine):
    """A tiny pool, so that preemption and eviction are everyday events."""

    @initialize(
        num_blocks=st.integers(8, 24),
        max_num_seqs=st.integers(1, 6),
        max_num_batched_tokens=st.integers(1, 20),
        max_launches=st.integers(1, 3),
        prefix_caching=st.booleans(),
        max_drafts=st.sampled_from([0, 3, 8]),
        raises_in_wait=st.booleans(),
        memory=st.sampled_from([10**6, 10**6, 2, 5]),
    )
    def start(
        self,
        num_blocks: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_launches: int,
        prefix_caching: bool,
        max_drafts: int,
        raises_in_wait: bool,
        memory: int,
    ) -> None:
        self.config = SchedulerConfig(
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=8 * BLOCK_SIZE,
            enable_prefix_caching=prefix_caching,
            max_drafts=max_drafts,
            step_overhead=30.0,
        )
        self.runner = FakeRunner(num_blocks, BLOCK_SIZE, max_num_seqs)
        self.runner.fault = self._fault
        self.runner.raises_in_wait = raises_in_wait
        self.memory = memory  # in tokens of a step
        self.fails_next = False
        self.num_failures = 0
        self.core = EngineCore(self.runner, self.config, max_launches, self._started)
        self.started: set[str] = set()
        self.requests: dict[str, Request] = {}
        self.received: dict[tuple[str, int], list[int]] = {}
        self.finished: dict[tuple[str, int], FinishReason] = {}
        self.aborted: set[tuple[str, int]] = set()

    @rule(
        prefix=st.sampled_from([(), (1, 2, 3, 4, 5), tuple(range(10, 22)), (7,) * 16]),
        suffix=st.lists(st.integers(0, 3), max_size=12),
        n=st.sampled_from([1, 1, 1, 2, 3, 5]),
        max_tokens=st.integers(0, 24),
        stop_token_ids=st.sampled_from([(), (), tuple(range(0, VOCAB_SIZE, 5))]),
        prompt_logprobs=st.sampled_from([None, None, 0]),
        logprobs=st.sampled_from([None, 2]),
        cache_salt=st.sampled_from(["", "", "other"]),
        priority=st.sampled_from([0, 0, -1, 1]),
        tenant=st.sampled_from(["", "a", "b"]),
        min_tokens=st.sampled_from([0, 0, 2]),
        beam_search=st.sampled_from(
            [None, None, BeamSearch(), BeamSearch(0.0, "never"), BeamSearch(2.0, True)]
        ),
        is_poisoned=st.sampled_from([False] * 5 + [True]),
    )
    def add(
        self,
        prefix: tuple[int, ...],
        suffix: list[int],
        n: int,
        max_tokens: int,
        stop_token_ids: tuple[int, ...],
        prompt_logprobs: int | None,
        logprobs: int | None,
        cache_salt: str,
        priority: int,
        tenant: str,
        min_tokens: int,
        beam_search: BeamSearch | None,
        is_poisoned: bool,
    ) -> None:
        prompt = [*prefix, *suffix, *[POISON] * is_poisoned] or [0]
        limit = min(max_tokens, self.config.max_model_len - len(prompt))
        num_blocks = beam_search_blocks(len(prompt), limit, n, BLOCK_SIZE)
        if n > self.config.max_num_seqs or num_blocks > self.config.num_blocks:
            beam_search = None
        request = Request(
            request_id=f"r{len(self.requests)}",
            prompt_token_ids=prompt,
            sampling=SamplingParams(
                seed=len(self.requests) % 3,
                max_tokens=max_tokens,
                min_tokens=min_tokens if beam_search else 0,  # the fake draws without looking
                stop_token_ids=stop_token_ids,
                prompt_logprobs=prompt_logprobs,
                logprobs=logprobs,
            ),
            n=n,
            cache_salt=cache_salt,
            priority=priority,
            beam_search=beam_search,
            tenant=tenant,
        )
        self.requests[request.request_id] = request
        self.core.add(request)
        for index in range(n):
            self.received[request.request_id, index] = []

    @precondition(lambda self: self.core.has_work)
    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self._step()

    @precondition(
        lambda self: (
            self.num_failures < MAX_UNEXPLAINED - 1
            and not (self.core.is_isolating or self.runner.is_broken)
        )
    )
    @rule()
    def fail_once(self) -> None:
        """The next launch fails, for no reason."""
        self.num_failures += 1
        self.fails_next = True

    @precondition(lambda self: bool(self.requests))
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        request = self.requests[request_id]
        index = data.draw(st.sampled_from([None, *range(request.n)]))
        self.core.abort(request_id, index)
        if _is_beam_search(request) and index is not None:
            return
        for aborted in range(request.n) if index is None else [index]:
            if (request_id, aborted) not in self.finished:
                self.aborted.add((request_id, aborted))

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "core"):
            self.core.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        for _ in range(3000):
            if not self.core.has_work:
                break
            self._step()
        assert not self.core.has_work, "somebody starves"
        for key in self.received:
            assert key in self.finished or key in self.aborted
        stats = self.core.stats()
        assert stats.num_blocks_used == 0
        assert stats.num_running == stats.num_waiting == 0

    def _step(self) -> None:
        try:
            outputs = self.core.step()
        except ContractError as error:  # hypothesis takes an Exception only for a finding
            raise AssertionError(str(error)) from error
        for output in outputs:
            self._take(output)
        self.core.scheduler.check_integrity()

    def _fault(self, batch: Batch) -> Exception | None:
        if batch.num_tokens > self.memory:
            return MemoryError()
        if self.fails_next or any(POISON in row.token_ids for row in batch.rows):
            self.fails_next = False
            return ZeroDivisionError("a fault")
        return None

    def _started(self, request_ids: list[str]) -> None:
        self.started.update(request_ids)

    def _take(self, output: ChoiceOutput) -> None:
        key = (output.request_id, output.index)
        request = self.requests[output.request_id]
        assert key not in self.aborted, "an output after an abort"
        assert key not in self.finished, "an output after the last one"
        assert output.request_id in self.started
        assert output.token_ids or output.finish_reason is not None, "an output that says nothing"
        received = self.received[key]
        if POISON in request.prompt_token_ids:
            assert (output.finish_reason, output.error) == (FinishReason.ERROR, STEP_FAILED)
            assert not output.token_ids
            self.finished[key] = FinishReason.ERROR
            return
        if not received and output.index == 0 and request.sampling.prompt_logprobs is not None:
            assert output.prompt_logprobs == expected_prompt_logprobs(request)
        else:
            assert output.prompt_logprobs is None
        if request.sampling.logprobs is not None and output.token_ids:
            assert output.logprobs is not None
            assert len(output.logprobs) == len(output.token_ids)
        received.extend(output.token_ids)
        if _is_beam_search(request):
            beam = expected_beams(request, self.config.max_model_len)[output.index]
            assert received == beam.token_ids
            assert output.finish_reason is beam.finish_reason
            assert (output.logprobs or []) == beam.logprobs
            self.finished[key] = beam.finish_reason
            return
        expected = expected_tokens(request, output.index, self.config.max_model_len)
        assert received == expected[: len(received)]
        if output.finish_reason is not None:
            self.finished[key] = output.finish_reason
            assert received == expected
            stopped = bool(received) and received[-1] in request.sampling.stop_token_ids
            assert output.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
            assert output.stop_token_id == (received[-1] if stopped else None)


def _is_beam_search(request: Request) -> bool:
    return request.beam_search is not None and request.sampling.max_tokens > 0


TestEngineMachine = pytest.mark.timeout(300)(EngineMachine.TestCase)
TestEngineMachine.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
