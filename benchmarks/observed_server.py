"""The API process of `observability.py`: one engine under two applications, one that is watched by
everything and one that is watched by nothing.

    python benchmarks/observed_server.py BARE_FD OBSERVED_FD ENGINE

The FDs are bound sockets, one for each application; ENGINE is "paced:MILLISECONDS", a token for
each stream so often, or the path of a model. Ends on SIGTERM. Log lines go to standard output.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from http_layer import made_up_tokenizer
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.loops.auto import auto_loop_factory

from engine import Engine, EngineClient, EngineConfig, default_cache_dir, open_checkpoint
from server.api_keys import ApiKeys
from server.app import create_app
from server.http_server import HttpServer
from server.logs import logging_to
from server.observe.histogram import Histogram
from server.observe.observer import Observer
from server.observe.record import CompletionRecord, RequestRecord
from server.observe.watch import Watch
from server.settings import Settings
from server.tokenizer import Tokenizer, load_tokenizer
from server.wire.schemas import CompletionRequest

MODEL_NAME = "timed"


class _Unfilled(CompletionRecord):
    """Keeps nothing of what it is told."""

    def add_start(self, started_at: float) -> None:
        pass

    def add_tokens(self, choice: int, num_tokens: int, now: float) -> None:
        pass

    def finish(
        self,
        num_prompt: int,
        num_generated: int,
        num_cached: int,
        reasons: list[str],
        *,
        num_longest: int,
    ) -> None:
        pass


class _Blind(Observer):
    """Sees no request and tells nobody. The one record that all share is needed by those who
    answer: they write down what they have answered."""

    def __init__(self) -> None:
        self._record = RequestRecord("unwatched", "POST")
        self._completion = _Unfilled(
            "unwatched",
            MODEL_NAME,
            num_prompts=1,
            n=1,
            parameters={},
            prompts=None,
            gaps=Histogram([]),
        )

    @contextmanager
    def request(self, scope: Scope, request_id: str) -> Iterator[RequestRecord]:
        yield self._record

    def completion(
        self, scope: Scope, completion_id: str, body: CompletionRequest
    ) -> CompletionRecord:
        return self._completion


class Unwatched(Watch):
    """The pages are there, and stay empty."""

    def __init__(self, engine: Engine, settings: Settings, model: str) -> None:
        super().__init__(engine, settings, model)
        self.observer = _Blind()


def make_engine(kind: str) -> tuple[EngineClient, Tokenizer]:
    if kind.startswith("paced:"):
        config = EngineConfig(kind.removeprefix("paced:"))
        return EngineClient(config, module="paced_engine"), made_up_tokenizer()
    config = EngineConfig(kind, cache_dir=str(default_cache_dir()))
    return EngineClient(config), load_tokenizer(open_checkpoint(Path(kind)).tokenizer)


class ByPort:
    """Hands each request to the application of the port it came to."""

    def __init__(self, applications: Mapping[int, ASGIApp]) -> None:
        self._applications = applications

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._applications[scope["server"][1]](scope, receive, send)


async def serve(sockets: Mapping[type[Watch], socket.socket], kind: str) -> None:
    engine, tokenizer = make_engine(kind)
    await engine.start()
    applications = {
        sock.getsockname()[1]: create_app(
            engine,
            tokenizer,
            Settings(),
            [MODEL_NAME],
            api_keys=ApiKeys([]),
            new_watch=new_watch,
        )
        for new_watch, sock in sockets.items()
    }

    def on_ready() -> None:  # as in `octavo serve`
        gc.collect()
        gc.freeze()

    server = HttpServer(ByPort(applications), on_ready, "info")
    try:
        await server.serve(list(sockets.values()))
    finally:
        for app in applications.values():
            await asyncio.to_thread(app.state.services.watch.close)
        await engine.close()


def main(arguments: Sequence[str]) -> None:
    *fds, kind = arguments
    with ExitStack() as stack:
        stack.enter_context(logging_to("json", "info"))
        bare, observed = [stack.enter_context(socket.socket(fileno=int(fd))) for fd in fds]
        runner = stack.enter_context(asyncio.Runner(loop_factory=auto_loop_factory()))
        runner.run(serve({Unwatched: bare, Watch: observed}, kind))


if __name__ == "__main__":
    main(sys.argv[1:])
