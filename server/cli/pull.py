"""`octavo pull`: fetch a model now, so that `octavo serve` later needs no network.

Knows no more of models than their name and whether their files can be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from engine import OctavoError, open_checkpoint, resolve_model
from server.banner import StartupProgress
from server.cli.options import fail, read_settings, setting_options

EXIT_FAILED = 1


@click.command()
@click.argument("model", required=False)
@setting_options(["cache_dir", "model_dirs"])
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of the path.")
def pull(config: Path | None, as_json: bool, **options: Any) -> None:
    """Download MODEL, the built-in model or a hub id, and print where it lies.

    The built-in model goes to the cache folder; models of the Hugging Face hub go to the cache that
    Hugging Face's own tools use (HF_HOME).
    """
    try:
        settings = read_settings(options, config)
        with StartupProgress(Console(stderr=True)) as progress:
            path = resolve_model(
                settings.model,
                cache_dir=settings.cache_dir,
                offline=settings.offline,
                on_progress=progress.update,
                extra_dirs=settings.model_dirs,
            )
        # Opened now: better than to hear where there is no network that it cannot be served.
        checkpoint = open_checkpoint(path)
    except OctavoError as exc:
        fail(exc, EXIT_FAILED)
    if as_json:
        facts = {"name": settings.model, "path": str(path), "parameters": checkpoint.num_parameters}
        click.echo(json.dumps(facts))
    else:
        click.echo(path)
