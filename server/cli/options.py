"""What the server's commands share: options made from Settings, and failures told in one line.

Knows the command line; does nothing on its own.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import click
from pydantic import ByteSize, SecretStr, ValidationError
from pydantic_core import PydanticUndefined

from engine import OctavoError
from server.settings import (
    Settings,
    config_file,
    load_origins,
    load_settings,
    misspelt_variables,
    variable_of,
)
from server.standard_streams import tell

_METAVARS = {
    str: "TEXT",
    SecretStr: "TEXT",
    int: "INTEGER",
    float: "NUMBER",
    ByteSize: "SIZE",
    Path: "PATH",
}

ALL_SETTINGS = [name for name in Settings.model_fields if name != "model"]  # that is an argument


def setting_options(names: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--config` and an option for each of these fields of Settings."""

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        for name in reversed(names):
            command = _option(name)(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="A TOML file with any of the server's options. [OCTAVO_CONFIG]",
        )(command)

    return add_options


def read_settings(options: dict[str, Any], config: Path | None) -> Settings:
    """Settings from a command's options, of which None was not given. Variables that are called
    almost like one are told of.

    Raises click's UsageError for what the user can put right, OctavoError where there is no place
    for a cache.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for wrong, right in misspelt_variables().items():
        click.echo(f"octavo: {wrong} is not read; did you mean {right}?", err=True)
    try:
        return load_settings(given, config)
    except ValidationError as exc:
        raise click.UsageError(_what_is_wrong(exc.errors()[0], given, config)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise click.UsageError(f"the configuration file {config_file(config)}: {exc}") from None


def read_origins(options: dict[str, Any], config: Path | None) -> dict[str, str]:
    """Who said what a setting is; for what `read_settings` has taken."""
    given = {name: value for name, value in options.items() if value is not None}
    return load_origins(given, config)


def shown_path(path: Path) -> str:
    """A path as people write it."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):  # elsewhere, or nobody's home
        return str(path)


def in_words(num_bytes: int) -> str:
    """A size as people write it."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def fail(error: OctavoError, exit_code: int) -> NoReturn:
    """Say what was wrong, in one line, and leave."""
    tell(f"octavo: {error}")
    sys.exit(exit_code)


def _what_is_wrong(error: Mapping[str, Any], given: dict[str, Any], config: Path | None) -> str:
    """Which setting, as it is called where it was given, and why."""
    name = str(error["loc"][0])
    name = "cache_dir" if name == variable_of("cache_dir") else name
    if name not in Settings.model_fields:
        close = get_close_matches(name, Settings.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{config_file(config)}: there is no setting {name!r}{hint}"
    places = {
        "option": f"--{name.replace('_', '-')}",
        "environment": variable_of(name),
        "file": f"{config_file(config)}: {name}",
    }
    message = error["msg"].removeprefix("Value error, ")
    return f"{places.get(load_origins(given, config)[name], name)}: {message}"


def _option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    field = Settings.model_fields[name]
    flag = f"--{name.replace('_', '-')}"
    variable = variable_of(name)
    has_default = field.default not in (None, (), PydanticUndefined)
    default = f"; default: {field.default}" if has_default else ""
    # No default here: what was not given must leave room for the environment and the file.
    option: dict[str, Any] = {"default": None, "help": f"{field.description} [{variable}{default}]"}
    if field.annotation is bool:
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    elif get_origin(field.annotation) is Literal:
        option["type"] = click.Choice(get_args(field.annotation))
    else:
        kinds = get_args(field.annotation) or (field.annotation,)
        option["metavar"] = _METAVARS[kinds[0]]
    return click.option(flag, name, **option)
