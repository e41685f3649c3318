"""`octavo models`: the models that lie on this machine, and which one is built in.

Opens each to read its header. Uses no network and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from engine import (
    BUILTIN_MODEL,
    CachedModel,
    CheckpointError,
    OctavoError,
    cached_models,
    open_checkpoint,
)
from server.cli.options import fail, in_words, read_settings, setting_options
from server.model_facts import ModelFacts, model_facts

EXIT_FAILED = 1


@click.command()
@setting_options(["cache_dir", "model_dirs"])
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def models(config: Path | None, as_json: bool, **options: Any) -> None:
    """List the models that lie here: name, size, context, family, type of weights, format, path."""
    try:
        settings = read_settings(options, config)
        found = cached_models(settings.cache_dir, extra_dirs=settings.model_dirs)
    except OctavoError as exc:
        fail(exc, EXIT_FAILED)
    facts = [_facts(model) for model in found]
    if as_json:
        for model, known in zip(found, facts, strict=True):
            of_header = asdict(known) if isinstance(known, ModelFacts) else {"problem": str(known)}
            click.echo(json.dumps(of_header | asdict(model), default=str))
        return
    if found:
        click.echo(_table(found, facts))
        for model, problem in zip(found, facts, strict=True):
            if isinstance(problem, CheckpointError):
                click.echo(f"{model.name} cannot be served: {problem}")
    if any(model.name == BUILTIN_MODEL for model in found):
        click.echo(f"\n{BUILTIN_MODEL} is built in: `octavo serve` serves it by default.")
    else:
        click.echo(f"{BUILTIN_MODEL} is built in but not here yet: `octavo pull` fetches it.")


def _facts(model: CachedModel) -> ModelFacts | CheckpointError:
    """What the model's header says, or why it cannot be served."""
    try:
        return model_facts(open_checkpoint(model.path), model.name)
    except CheckpointError as exc:
        return exc


def _table(found: Sequence[CachedModel], facts: Sequence[ModelFacts | CheckpointError]) -> str:
    """Columns as wide as they need to be, the path last: never cut, so that it can be copied."""
    rows = [("NAME", "SIZE", "CONTEXT", "FAMILY", "TYPE", "FORMAT", "PATH")]
    for model, known in zip(found, facts, strict=True):
        of_header = ("-", "-", "-")
        if isinstance(known, ModelFacts):
            of_header = (f"{known.context_length:,}", known.family, known.quantization or "-")
        size = in_words(model.num_bytes)
        rows.append((model.name, size, *of_header, model.format, str(model.path)))
    *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{name:<{widths[0]}}  {size:>{widths[1]}}  {context:>{widths[2]}}  {family:<{widths[3]}}  "
        f"{kind:<{widths[4]}}  {form:<{widths[5]}}  {path}"
        for name, size, context, family, kind, form, path in rows
    )
