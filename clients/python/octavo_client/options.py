"""The command-line options that say which server is meant, for every command that asks one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from octavo_client._client import Client
from octavo_client.grouped_help import GroupedOption

SERVER = "Server"


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url, --api-key and --model, as `url`, `api_key` and `model`, each None if not given."""
    options = (
        click.option(
            "--url",
            metavar="URL",
            cls=GroupedOption,
            group=SERVER,
            help="The server; without a path, /v1 is added. "
            "[OCTAVO_BASE_URL, OPENAI_BASE_URL; default: http://127.0.0.1:8000/v1]",
        ),
        click.option(
            "--api-key",
            metavar="KEY",
            cls=GroupedOption,
            group=SERVER,
            help="[OCTAVO_API_KEY, OPENAI_API_KEY]",
        ),
        click.option(
            "--model",
            metavar="NAME",
            cls=GroupedOption,
            group=SERVER,
            help="Default: the first one the server has.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def open_client(url: str | None, api_key: str | None) -> Client:
    """A client of the server that the options name; a `click.UsageError` if it cannot be one."""
    try:
        return Client(url, api_key=api_key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def first_model(client: Client) -> str:
    """The name of the first model that the server lists."""
    models = client.models.list().data
    if not models:
        raise click.ClickException(f"{client.base_url} has no model; name one with --model")
    return models[0].id
