"""The only seam between the server and the engine: add requests, read what comes, abort, stats.

`Engine` is what the server sees, `EngineClient` the real one: it speaks to a child process that a
supervisor keeps alive. Delivery never blocks and never waits for a reader. Knows no text and
imports nothing that the child needs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from engine.config import EngineConfig
from engine.errors import EngineDeadError, OctavoError, SlowReaderError
from engine.info import EngineInfo
from engine.messages import FromEngine, GetStats, Started, Stats, Step
from engine.request import ChoiceOutput, Request
from engine.stats import EngineHistory, EngineStats
from engine.submissions import Submissions
from engine.supervisor import Supervisor

# An engine that leaves this much unread hangs; taking more requests for it would only use memory.
MAX_UNSENT_BYTES = 64 * 2**20
# What a reader who is behind may leave unread of one call, in memory of this process.
MAX_UNREAD_BYTES = 16 * 2**20
_TOKEN_BYTES, _LOGPROB_BYTES, _ALTERNATIVE_BYTES = 40, 230, 72  # as Python's objects


class OutputStream:
    """What comes for the requests of one call, all choices in one stream. For one reader.

    Iterating gives everything that has come since the last time, one output for each choice, so a
    slow reader gets many tokens at once; one who leaves more than `MAX_UNREAD_BYTES` gets these and
    no more. Giving up one wait (`interrupt`, a timeout) loses nothing; leaving `async with` aborts
    whatever is unfinished, which covers cancellation and disconnects.
    """

    def __init__(
        self, requests: list[Request], on_abort: Callable[[str, int | None], None]
    ) -> None:
        """`on_abort(request_id, index)` is told what the reader gives up."""
        self._on_abort = on_abort
        self._open = {request.request_id: set(range(request.n)) for request in requests}
        self._queue: dict[tuple[str, int], ChoiceOutput] = {}
        self._num_unread_bytes = 0
        self._failure: OctavoError | None = None
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[ChoiceOutput]:
        """Never empty. Ends when every choice has finished. Raises EngineDeadError,
        SlowReaderError, and TimeoutError when interrupted."""
        while not self._queue:
            if self._failure is not None:
                raise self._failure
            if not self._open:
                raise StopAsyncIteration
            assert self._reader is None, "a stream has one reader"
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        outputs = list(self._queue.values())
        self._queue.clear()
        self._num_unread_bytes = 0
        return outputs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one choice of it: nothing more of it comes, and it counts as finished.

        Ignored when it is unknown or has finished.
        """
        if not self.is_open(request_id, index):
            return
        self._queue = {
            choice: output
            for choice, output in self._queue.items()
            if output.request_id != request_id or index not in (None, output.index)
        }
        self._finish(request_id, index)
        self._on_abort(request_id, index)
        if not self._open:
            self._wake()

    def interrupt(self) -> None:
        """Make the reader raise TimeoutError if it waits. A timeout around every wait would be paid
        for by each token."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(TimeoutError())

    def close(self) -> None:
        """Abort everything unfinished and drop what was not read. May be called again."""
        self._queue.clear()
        for request_id in list(self._open):
            self.abort(request_id)

    # For the engine's side

    def is_open(self, request_id: str, index: int | None = None) -> bool:
        """Whether something of the request, or this choice of it, is unfinished."""
        indices = self._open.get(request_id)
        return indices is not None and (index is None or index in indices)

    def put(self, output: ChoiceOutput) -> None:
        """Queue an output and wake the reader; dropped when its choice was aborted here."""
        indices = self._open.get(output.request_id)
        if indices is None or output.index not in indices:
            return
        choice = output.request_id, output.index
        if choice in self._queue:
            self._queue[choice].extend(output)
        else:
            self._queue[choice] = output
        if output.finish_reason is not None:
            self._finish(*choice)
        self._num_unread_bytes += _size(output)
        if self._num_unread_bytes > MAX_UNREAD_BYTES:
            self._overflow()
        self._wake()

    def fail(self, failure: str) -> None:
        """Raise EngineDeadError to the reader after what has come; nothing more will."""
        if self._open:
            self._failure = EngineDeadError(failure)
            self._open.clear()
            self._wake()

    def _overflow(self) -> None:
        """What waits can still be read; the rest is not computed."""
        unfinished = list(self._open)
        self._open.clear()
        if unfinished:
            self._failure = SlowReaderError("the answer was not read as fast as it was computed")
        for request_id in unfinished:
            self._on_abort(request_id, None)

    def _finish(self, request_id: str, index: int | None) -> None:
        indices = self._open[request_id]
        if index is not None:
            indices.discard(index)
        if index is None or not indices:
            del self._open[request_id]

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _size(output: ChoiceOutput) -> int:
    """About what it takes. Log-probabilities of prompts come once, and are bounded by whoever asks
    for them."""
    size = len(output.token_ids) * _TOKEN_BYTES
    if output.logprobs is not None:
        for entry in output.logprobs:
            size += _LOGPROB_BYTES + len(entry.top_token_ids) * _ALTERNATIVE_BYTES
    return size


class Engine(Protocol):
    """Token ids in, token ids out. One event loop, no locks. Tests put a fake here."""

    @property
    def info(self) -> EngineInfo:
        """The engine as it came up; valid after `start`, also while it is started again."""

    @property
    def is_ready(self) -> bool:
        """Whether `add` takes requests at this moment."""

    @property
    def history(self) -> EngineHistory:
        """What befell it so far. With each death the totals of `stats` begin again."""

    async def start(self) -> EngineInfo:
        """Load the model. Raises EngineStartError with one line for the user."""

    def add(self, requests: list[Request]) -> OutputStream:
        """Hand over requests, whose ids are new, without waiting. Raises EngineDeadError."""

    async def stats(self) -> EngineStats:
        """The engine's counts after its current step. Raises EngineDeadError."""

    async def close(self) -> None:
        """End the engine; open streams fail. May be called again."""


class EngineClient:
    """The engine in a child process, `python -m module`.

    When it dies or hangs it is started again; meanwhile `is_ready` is False and `add` raises.
    Streams that have brought something raise EngineDeadError at once, the others go on with the
    next process. `on_progress(phase, fraction)` follows each loading.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        on_progress: Callable[[str, float], None] | None = None,
        module: str = "engine.process",
    ) -> None:
        self._supervisor = Supervisor(
            config,
            module,
            self._receive,
            self._died,
            on_progress,
            on_return=self._returned,
            on_give_up=self._fail_all,
        )
        self._submissions = Submissions(self._supervisor.send)
        self._info: EngineInfo | None = None
        self._stats_readers: deque[asyncio.Future[EngineStats]] = deque()
        self._is_closed = False
        self._num_deaths = 0

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "info before start"
        return self._info

    @property
    def is_ready(self) -> bool:
        return self._supervisor.is_ready and not self._is_closed

    @property
    def history(self) -> EngineHistory:
        return EngineHistory(
            num_deaths=self._num_deaths,
            num_restarts=self._supervisor.num_restarts,
            num_failed_starts=self._supervisor.num_failed_starts,
            num_hangs=self._supervisor.num_hangs,
            num_resubmitted=self._submissions.num_resubmitted,
        )

    @property
    def pid(self) -> int | None:
        """The engine process of the moment, None before the first."""
        return self._supervisor.pid

    async def start(self) -> EngineInfo:
        self._info = await self._supervisor.start()
        return self._info

    def add(self, requests: list[Request]) -> OutputStream:
        self._check_ready()
        if self._supervisor.num_unsent_bytes > MAX_UNSENT_BYTES:
            raise EngineDeadError("the engine process does not respond; try again later")
        stream = OutputStream(requests, self._submissions.abort)
        self._submissions.add(stream, requests)
        return stream

    async def stats(self) -> EngineStats:
        self._check_ready()
        reader: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._stats_readers.append(reader)
        self._supervisor.send(GetStats())
        return await reader

    async def wait_given_up(self) -> None:
        """Wait for ever, or raise EngineDeadError when the engine died so often that it is not
        started again. May be cancelled."""
        await self._supervisor.wait_given_up()

    async def close(self) -> None:
        self._is_closed = True
        self._fail_all("the engine has been shut down")
        await self._supervisor.close()

    def _check_ready(self) -> None:
        if self._is_closed:
            raise EngineDeadError("the engine has been shut down")
        if not self._supervisor.is_ready:
            raise EngineDeadError("the engine process is being started; send the request again")

    def _receive(self, message: FromEngine) -> None:
        if isinstance(message, Step):
            for output in message.outputs:
                self._submissions.put(output)
        elif isinstance(message, Started):
            self._submissions.start(message.request_ids)
        elif isinstance(message, Stats) and self._stats_readers:
            reader = self._stats_readers.popleft()
            if not reader.done():
                reader.set_result(message.stats)

    def _died(self, ending: str) -> None:
        self._num_deaths += 1
        failure = (
            f"the engine process stopped unexpectedly ({ending}) and is being started again; "
            "send the request again"
        )
        self._submissions.die(failure)
        self._fail_readers(failure)

    def _returned(self, info: EngineInfo) -> None:
        self._info = info  # there may be more memory, or less
        self._submissions.revive()

    def _fail_all(self, failure: str) -> None:
        self._submissions.fail_all(failure)
        self._fail_readers(failure)

    def _fail_readers(self, failure: str) -> None:
        for reader in self._stats_readers:
            if not reader.done():
                reader.set_exception(EngineDeadError(failure))
        self._stats_readers.clear()
