"""The server of the soak: the application of `octavo serve` around the soak's engine.

`python -m chaos.soak.server_process FOLDER PORT_FILE...` is told where everything is by its
arguments; the log goes to standard output. Ends as `octavo serve` does, by SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from pathlib import Path

from chaos.soak.calls import ALIAS, KEYS_FILE, MODEL
from chaos.soak.connection import SMALL_BUFFER
from chaos.soak.looks import answer_signals
from chaos.soak.receiving import CountReceivers, Receivers
from chaos.soak.vocabulary import soak_tokenizer

from engine import EngineClient, EngineConfig
from server.api_keys import load_api_keys
from server.app import create_app
from server.bodies import Bodies
from server.boundary import RequestBoundary
from server.cli.serve import _new_event_loop
from server.http_server import HttpServer
from server.listen import bind
from server.logs import logging_to
from server.services import Services
from server.settings import Settings
from server.web import run_server
from server.wire.limits import MAX_BODY_BYTES


async def serve(folder: Path) -> signal.Signals | None:
    """Tells in `folder`/server.json where it listens. Returns the signal that ended it."""
    keys_file = folder / "keys"
    keys_file.write_text(KEYS_FILE)
    settings = Settings(
        api_key_file=keys_file,
        max_queue_requests=40,
        max_queue_tokens=5000,
        max_body_memory=MAX_BODY_BYTES,
        sse_keep_alive_seconds=0.1,  # so that they come among the events
    )
    # How many launches at a time, and where the engine is looked at.
    engine = EngineClient(
        EngineConfig("1", cache_dir=str(folder)), module="chaos.soak.engine_process"
    )
    await engine.start()
    app = create_app(
        engine,
        soak_tokenizer(),
        settings,
        [MODEL, ALIAS],
        api_keys=load_api_keys(None, keys_file),
    )
    receivers = Receivers()
    app.add_middleware(CountReceivers, receivers=receivers)
    services: Services = app.state.services
    [boundary] = [one for one in app.user_middleware if one.cls is RequestBoundary]
    bodies = boundary.kwargs["bodies"]
    assert isinstance(bodies, Bodies)

    def state() -> dict[str, float]:
        return {
            "open": services.queue.num_open,
            "waiting": services.queue.num_waiting,
            "waiting_tokens": services.queue.num_waiting_tokens,
            "texts": services.workers.num_texts,
            "bodies": bodies.num_bytes,
            "receivers": receivers.num_left,
        }

    answer_signals(folder, state)
    with bind("127.0.0.1", 0) as sock:
        # Small, or a client that reads slowly would never make the server wait.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        place = {"port": sock.getsockname()[1], "engine_pid": engine.pid}

        def tell() -> None:
            partial = folder / "server.part"
            partial.write_text(json.dumps(place))
            partial.replace(folder / "server.json")

        server = HttpServer(
            app,
            tell,
            settings.log_level,
            observer=services.watch.observer,
            stall_timeout=settings.stream_stall_timeout,
            max_connections=settings.max_connections,
            requests=services.queue,
            drain_timeout=settings.drain_timeout,
        )
        try:
            return await run_server(server, sock, engine)
        finally:
            await engine.close()


def main() -> int:
    with (
        logging_to("json", "info"),
        asyncio.Runner(loop_factory=_new_event_loop) as runner,
    ):
        received = runner.run(serve(Path(sys.argv[1])))
    logging.shutdown()
    return 0 if received is signal.SIGTERM else 1


if __name__ == "__main__":
    sys.exit(main())
