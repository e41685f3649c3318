"""An engine in this process that says what it is told to say: the seam's fake for server tests.

It has the real OutputStream, so delivery, aborts and failures are those of the real client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine import (
    ChoiceOutput,
    EngineDeadError,
    EngineHistory,
    EngineInfo,
    EngineStats,
    Failure,
    FinishReason,
    OutputStream,
    Request,
    TokenLogprobs,
)

INFO = EngineInfo(
    architecture="fake",
    vocab_size=300,
    num_parameters=1,
    max_model_len=4096,
    device="cpu",
    dtype="float32",
    kernels="none",
    num_blocks=1024,
    block_size=16,
    max_num_seqs=64,
    max_num_batched_tokens=512,
    load_seconds=0.0,
)

Script = Callable[[Request, int], Sequence[int]]


def logprobs_of(token_id: int, num_top: int) -> TokenLogprobs:
    """Made-up numbers: the token's own depends on its id, alternatives are the ids after it."""
    top_ids = [(token_id + 1 + k) % 256 for k in range(num_top)]
    return TokenLogprobs(-token_id / 100, token_id + 1, top_ids, [-k - 0.5 for k in range(num_top)])


@dataclass
class _Running:
    stream: OutputStream
    request: Request
    index: int
    token_ids: Sequence[int]
    num_sent: int = 0


class FakeEngine:
    """`script(request, choice)` gives the tokens of a choice, stop token included.

    Runs by itself, one token of each choice in each turn of the event loop, unless `manual`: then
    `step()` makes one. `group` tokens come in one output.
    """

    def __init__(
        self,
        script: Script = lambda request, index: list(b" and so on" * 1000),
        *,
        manual: bool = False,
        group: int = 1,
        info: EngineInfo = INFO,
    ) -> None:
        self.info = info
        self.is_ready = True
        self.history = EngineHistory()
        self.requests: list[Request] = []
        self.aborts: list[tuple[str, int | None]] = []
        self.num_cached_tokens = 0
        self._script = script
        self._manual = manual
        self._group = group
        self._running: list[_Running] = []
        self._changed = asyncio.Event()

    async def start(self) -> EngineInfo:
        return self.info

    async def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self._running))

    async def close(self) -> None:
        self.die()

    def add(self, requests: list[Request]) -> OutputStream:
        if not self.is_ready:
            raise EngineDeadError("the engine process is being started; send the request again")
        stream = OutputStream(requests, self._abort)
        self.requests += requests
        for request in requests:
            for index in range(request.n):
                script = self._script(request, index)
                self._running.append(_Running(stream, request, index, script))
        self._change()
        if not self._manual:
            asyncio.get_running_loop().call_soon(self._run)
        return stream

    def step(self) -> None:
        """One output for each running choice."""
        for running in list(self._running):
            output = self._next_output(running)
            running.stream.put(output)
            if output.finish_reason is not None and running in self._running:
                self._running.remove(running)
        self._change()

    def fail(self, request: Request, error: Failure) -> None:
        """End the first choice of `request` with an error of its own."""
        for running in self._running:
            if running.request is request:
                running.stream.put(
                    ChoiceOutput(request.request_id, 0, [], FinishReason.ERROR, error=error)
                )

    def die(self) -> None:
        """The engine process goes away under everything that runs."""
        self.is_ready = False
        self.history = replace(self.history, num_deaths=self.history.num_deaths + 1)
        for running in self._running:
            running.stream.fail("the engine process stopped unexpectedly")
        self._running.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; looked at whenever the engine's state changes."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @property
    def is_idle(self) -> bool:
        return not self._running

    def _run(self) -> None:
        if self._running:
            self.step()
            asyncio.get_running_loop().call_soon(self._run)

    def _abort(self, request_id: str, index: int | None) -> None:
        self.aborts.append((request_id, index))
        self._running = [
            running
            for running in self._running
            if running.request.request_id != request_id or index not in (None, running.index)
        ]
        self._change()

    def _change(self) -> None:
        self._changed.set()

    def _next_output(self, running: _Running) -> ChoiceOutput:
        request, sampling = running.request, running.request.sampling
        left = sampling.max_tokens - running.num_sent
        token_ids: list[int] = []
        stop_token_id = None
        reason = None
        for token_id in running.token_ids[running.num_sent :][: min(self._group, left)]:
            token_ids.append(token_id)
            if token_id in sampling.stop_token_ids:
                stop_token_id, reason = token_id, FinishReason.STOP
                break
        is_first = running.num_sent == 0
        running.num_sent += len(token_ids)
        if reason is None and running.num_sent >= min(sampling.max_tokens, len(running.token_ids)):
            reason = FinishReason.LENGTH
        logprobs = prompt_logprobs = None
        if sampling.logprobs is not None:
            logprobs = [logprobs_of(token_id, sampling.logprobs) for token_id in token_ids]
        if sampling.prompt_logprobs is not None and is_first and running.index == 0:
            num_top = sampling.prompt_logprobs
            rest = request.prompt_token_ids[1:]
            prompt_logprobs = [None, *(logprobs_of(token_id, num_top) for token_id in rest)]
        return ChoiceOutput(
            request.request_id,
            running.index,
            token_ids,
            reason,
            stop_token_id,
            logprobs,
            prompt_logprobs,
            self.num_cached_tokens if is_first else 0,
        )
