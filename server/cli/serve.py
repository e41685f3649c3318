"""`octavo serve`: start the engine, load the tokenizer beside it, serve until told to stop.

The options are made from the fields of Settings. Errors at the start are one line and exit code 3.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import ByteSize, ValidationError
from pydantic_core import PydanticUndefined
from rich.console import Console
from uvicorn.loops.auto import auto_loop_factory

from engine import EngineClient, OctavoError, open_checkpoint, resolve_model
from server.app import create_app
from server.banner import StartupProgress, banner
from server.listen import HttpServer, bind, socket_url
from server.settings import Settings, load_settings
from server.tokenizer import load_tokenizer

EXIT_STARTUP = 3
EXIT_INTERRUPTED = 130

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_VARIABLES = {"cache_dir": "OCTAVO_CACHE"}
_METAVARS = {str: "TEXT", int: "INTEGER", float: "NUMBER", ByteSize: "SIZE", Path: "PATH"}


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each field of Settings but the model, which is an argument."""
    for name, field in reversed(Settings.model_fields.items()):
        if name == "model":
            continue
        flag = f"--{name.replace('_', '-')}"
        variable = _VARIABLES.get(name, f"OCTAVO_{name.upper()}")
        has_default = field.default not in (None, PydanticUndefined)
        default = f"; default: {field.default}" if has_default else ""
        # No default here: what was not given must leave room for the environment and the file.
        option: dict[str, Any] = {
            "default": None,
            "help": f"{field.description} [{variable}{default}]",
        }
        if field.annotation is bool:
            flag = f"{flag}/--no-{name.replace('_', '-')}"
        elif get_origin(field.annotation) is Literal:
            option["type"] = click.Choice(get_args(field.annotation))
        else:
            kinds = get_args(field.annotation) or (field.annotation,)
            option["metavar"] = _METAVARS[kinds[0]]
        command = click.option(flag, name, **option)(command)
    return command


@click.command()
@click.argument("model", required=False)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A TOML file with any of these options. [OCTAVO_CONFIG]",
)
@_options
def serve(config: Path | None, **options: Any) -> None:
    """Serve MODEL over HTTP: the built-in model, a .gguf file, a folder or a hub id."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = _settings(given, config)
        logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            received = runner.run(_serve(settings))
    except OctavoError as exc:
        click.echo(f"octavo: {exc}", err=True)
        sys.exit(EXIT_STARTUP)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    if received is signal.SIGINT:
        sys.exit(EXIT_INTERRUPTED)


def _settings(given: dict[str, Any], config: Path | None) -> Settings:
    """Raises click's UsageError for what the user can put right."""
    try:
        return load_settings(given, config)
    except ValidationError as exc:
        error = exc.errors()[0]
        name = ".".join(map(str, error["loc"]))
        raise click.UsageError(f"{name}: {error['msg']}") from None
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise click.UsageError(f"the configuration file: {exc}") from None


async def _serve(settings: Settings) -> signal.Signals | None:
    """Serve until a signal comes; returns it. Raises OctavoError when the start fails."""
    console = Console(stderr=True)
    sock = bind(settings.host, settings.port)
    with sock, StartupProgress(console) as progress:
        path = await asyncio.to_thread(
            resolve_model,
            settings.model,
            cache_dir=settings.cache_dir,
            offline=settings.offline,
            on_progress=progress.update,
        )
        engine = EngineClient(settings.engine_config(path), on_progress=progress.update)
        starting = asyncio.ensure_future(engine.start())
        try:
            checkpoint = await asyncio.to_thread(open_checkpoint, path)
            tokenizer = await asyncio.to_thread(load_tokenizer, checkpoint.tokenizer)
            info = await starting
            progress.stop()
            names = _model_names(settings, checkpoint.name)
            server = HttpServer(
                create_app(engine, tokenizer, settings, names),
                on_ready=lambda: console.print(
                    banner(names[0], info, socket_url(sock)),
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                ),
                log_level=settings.log_level,
            )
            await server.serve([sock])
            return server.signal_received
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await engine.close()


def _model_names(settings: Settings, checkpoint_name: str) -> list[str]:
    """What clients may call the model. A path on this machine is nobody's business."""
    if settings.served_model_name is not None:
        return [name.strip() for name in settings.served_model_name.split(",") if name.strip()]
    return [checkpoint_name if Path(settings.model).exists() else settings.model]
