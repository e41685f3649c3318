"""Many completions at once, as many at a time as asked for, and what became of each.

Knows nothing of HTTP: it is given what completes one prompt.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from octavo_client._errors import APIError
from octavo_client._types import Completion, CreateParams, Prompt

T = TypeVar("T")
Report = Callable[[bool], None]  # told of each completion whether it failed


@dataclass(frozen=True)
class CompletionResult:
    """What became of the prompt at place `index`: either a `completion` or an `error`."""

    index: int
    prompt: Prompt
    completion: Completion | None = None
    error: APIError | None = None

    @property
    def text(self) -> str:
        """The text of the first choice; raises the error if there is none."""
        return self.unwrap().choices[0].text

    def unwrap(self) -> Completion:
        """The completion; raises the error if there is none."""
        if self.completion is None:
            raise self.error or APIError("there is no completion")
        return self.completion


async def complete_many(
    create: Callable[[CreateParams], Awaitable[Completion]],
    requests: Sequence[CreateParams],
    concurrency: int,
    progress: bool,
) -> list[CompletionResult]:
    """The results of `requests` in their order, `concurrency` of them under way at a time.

    Failures of single ones are results. Anything else, cancellation too, ends all that are under
    way before it is raised.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency has to be 1 or more, not {concurrency}")
    results: list[CompletionResult | None] = [None] * len(requests)
    todo = iter(list(enumerate(requests)))

    async def work(report: Report) -> None:
        for index, request in todo:  # shared: each worker takes the next
            result = await _complete_one(create, index, request)
            results[index] = result
            report(result.error is not None)

    with _shown(len(requests)) if progress else nullcontext(_ignore) as report:
        workers = [asyncio.ensure_future(work(report)) for _ in requests[:concurrency]]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return [result for result in results if result is not None]


def run_apart(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of its own, and wait for it; also inside another loop.

    Ctrl+C while waiting cancels it, and is raised when it has come to its end.
    """
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []

    async def held() -> T:
        task = asyncio.ensure_future(main())
        running.append((asyncio.get_running_loop(), task))
        started.set()
        return await task

    with ThreadPoolExecutor(max_workers=1) as executor:
        future = executor.submit(asyncio.run, held())
        try:
            return future.result()
        except BaseException:
            if not future.done():
                started.wait()
                loop, task = running[0]
                with suppress(RuntimeError):  # it has just come to its end by itself
                    loop.call_soon_threadsafe(task.cancel)
            raise


async def _complete_one(
    create: Callable[[CreateParams], Awaitable[Completion]], index: int, request: CreateParams
) -> CompletionResult:
    # One prompt, as `create_many` has made each request.
    prompt: Any = request["prompt"]
    try:
        return CompletionResult(index, prompt, completion=await create(request))
    except APIError as error:
        return CompletionResult(index, prompt, error=error)


def _shown(total: int) -> AbstractContextManager[Report]:
    # rich takes a while to import and is not needed without a progress bar.
    from octavo_client._progress import progress_bar

    return progress_bar(total)


def _ignore(has_failed: bool) -> None:
    """Show nothing."""
