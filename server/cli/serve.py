"""`octavo serve`: start the engine, load the tokenizer beside it, serve until told to stop.

The options are made from the fields of Settings. Errors at the start are one line and exit code 3.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from engine import (
    BUILTIN_MODEL,
    EngineClient,
    EngineDeadError,
    OctavoError,
    open_checkpoint,
    resolve_model,
)
from server.api_keys import load_api_keys
from server.banner import StartupProgress, banner
from server.cli.groups import GroupedCommand
from server.cli.options import (
    ALL_SETTINGS,
    fail,
    read_origins,
    read_settings,
    setting_options,
    shown_path,
)
from server.cli.print_config import config_text
from server.hosts import allowed_hosts
from server.listen import bind, is_loopback, socket_url
from server.logs import logging_to
from server.model_facts import author_notes
from server.settings import Settings
from server.standard_streams import open_standard_streams, tell

try:
    import uvloop
except ImportError:  # not for every system
    _new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    _new_event_loop = uvloop.new_event_loop

EXIT_STARTUP = 3
EXIT_ENGINE_DEAD = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143  # by SIGTERM before there was anything to finish

logger = logging.getLogger(__name__)


@click.command(cls=GroupedCommand)
@click.argument("model", required=False)
@setting_options(ALL_SETTINGS)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print every setting and where it comes from, as a configuration file, and end.",
)
def serve(config: Path | None, print_config: bool, **options: Any) -> None:
    """Serve MODEL over HTTP: the built-in model, a .gguf file, a folder or a hub id."""
    try:
        settings = read_settings(options, config)
        if print_config:
            click.echo(config_text(settings, read_origins(options, config)))
            return
        open_standard_streams()
        # Where it is ignored, which is inherited, nobody learns how the engine ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with (
            logging_to(settings.log_format, settings.log_level),
            _terminable(),
            asyncio.Runner(loop_factory=_new_event_loop) as runner,
        ):
            received = runner.run(_serve(settings))
    except EngineDeadError as exc:
        fail(exc, EXIT_ENGINE_DEAD)
    except OctavoError as exc:
        fail(exc, EXIT_STARTUP)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    if received is signal.SIGINT:
        sys.exit(EXIT_INTERRUPTED)


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end the process at once, until the HTTP server takes it over.

    Signals have no default action for process 1 of a container: one that came while the model loads
    would be lost. The engine ends with us, as its channel closes.
    """
    before = signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(EXIT_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _serve(settings: Settings) -> signal.Signals | None:
    """Serve until a signal comes; returns it. Raises OctavoError when the start fails, and
    EngineDeadError when the engine does again and again."""
    api_keys = load_api_keys(settings.api_key, settings.api_key_file)
    sock = bind(settings.host, settings.port)
    if not api_keys and not is_loopback(sock):
        logger.warning(
            "no API key is set: everyone who can reach %s port %d can use the model "
            "(--api-key, --api-key-file)",
            *sock.getsockname()[:2],
        )
    with sock, StartupProgress(Console(stderr=True)) as progress:
        try:
            path = await asyncio.to_thread(
                resolve_model,
                settings.model,
                cache_dir=settings.cache_dir,
                offline=settings.offline,
                on_progress=progress.update,
                extra_dirs=settings.model_dirs,
            )
        except asyncio.CancelledError:
            # By Ctrl+C. A thread cannot be stopped: a download would be waited for.
            progress.stop()
            os._exit(EXIT_INTERRUPTED)
        # Its header says whether it can be served at all: before there is a process for it.
        is_dummy = settings.load_format == "dummy"
        checkpoint = await asyncio.to_thread(open_checkpoint, path, require_weights=not is_dummy)
        engine = EngineClient(settings.engine_config(path), on_progress=progress.update)
        starting = asyncio.ensure_future(engine.start())
        try:
            # The engine's process loads torch and the weights meanwhile.
            web = await asyncio.to_thread(importlib.import_module, "server.web")
            names = _model_names(settings, checkpoint.name)

            def on_ready() -> None:
                gc.collect()
                gc.freeze()  # what is here stays: no search for garbage has to look at it
                tell(
                    banner(
                        names[0],
                        _origin(settings.model, path),
                        engine.info,
                        socket_url(sock),
                        needs_key=bool(api_keys),
                        notes=author_notes(checkpoint, settings.generation_config),
                    )
                )

            server = await asyncio.to_thread(
                web.build_server,
                engine,
                checkpoint,
                settings,
                names,
                api_keys,
                allowed_hosts(settings.allowed_hosts, settings.host, sock),
                on_ready=on_ready,
            )
            checkpoint.close_files()  # the engine has its own
            await starting
            progress.stop()
            received: signal.Signals | None = await web.run_server(server, sock, engine)
            return received
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await engine.close()


def _origin(model: str, path: Path) -> str:
    """Where the model came from and where it lies, for the operator alone."""
    kind = "built in" if model == BUILTIN_MODEL else "local" if Path(model).exists() else "hub"
    return f"{kind}, {shown_path(path)}"


def _model_names(settings: Settings, checkpoint_name: str) -> list[str]:
    """What clients may call the model. A path on this machine is nobody's business."""
    given = (settings.served_model_name or "").split(",")
    names = [name.strip() for name in given if name.strip()]
    return names or [checkpoint_name if Path(settings.model).exists() else settings.model]
