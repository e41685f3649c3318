"""`octavo models`: the models that lie on this machine, and which one is built in.

Uses no network and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from engine import BUILTIN_MODEL, CachedModel, OctavoError, cached_models
from server.cli.options import fail, in_words, read_settings, setting_options

EXIT_FAILED = 1


@click.command()
@setting_options(["cache_dir", "model_dirs"])
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def models(config: Path | None, as_json: bool, **options: Any) -> None:
    """List the models that can be served without a network: name, size, format, path."""
    try:
        settings = read_settings(options, config)
        found = cached_models(settings.cache_dir, extra_dirs=settings.model_dirs)
    except OctavoError as exc:
        fail(exc, EXIT_FAILED)
    if as_json:
        for model in found:
            click.echo(json.dumps(asdict(model), default=str))
        return
    if found:
        click.echo(_table(found))
    if any(model.name == BUILTIN_MODEL for model in found):
        click.echo(f"\n{BUILTIN_MODEL} is built in: `octavo serve` serves it by default.")
    else:
        click.echo(f"{BUILTIN_MODEL} is built in but not here yet: `octavo pull` fetches it.")


def _table(found: Sequence[CachedModel]) -> str:
    """Columns as wide as they need to be, the path last: never cut, so that it can be copied."""
    rows = [("NAME", "SIZE", "FORMAT", "PATH")]
    rows += [(m.name, in_words(m.num_bytes), m.format, str(m.path)) for m in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {size:>{widths[1]}}  {kind:<{widths[2]}}  {path}"
        for name, size, kind, path in rows
    )
