"""`octavo doctor`: what this machine has, what would run on it and why. Starts and downloads
nothing; compiles the kernels if they are not compiled yet, as the first start would.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from engine import (
    CheckpointError,
    EngineProspect,
    Machine,
    ModelAbsentError,
    OctavoError,
    examine_engine,
    examine_machine,
    open_checkpoint,
    resolve_model,
)
from server.cli.diagnosis import Diagnosis, Disk, ModelFacts, diagnose
from server.cli.options import fail, in_words, read_settings, setting_options, shown_path
from server.settings import Settings
from server.version import server_version

EXIT_PROBLEM = 3

_OPTIONS = [
    "device",
    "dtype",
    "load_format",
    "quantization",
    "num_threads",
    "cache_dir",
    "model_dirs",
    "offline",
]
# What kernels make use of, of the many that a processor has.
_TELLING_FLAGS = [
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
]


@click.command()
@click.argument("model", required=False)
@setting_options(_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(config: Path | None, as_json: bool, **options: Any) -> None:
    """Say what this machine has, how MODEL (or the built-in one) would run on it, and what would
    make it faster. Ends with 3 where no server could be started."""
    try:
        settings = read_settings(options, config)
    except OctavoError as exc:
        fail(exc, EXIT_PROBLEM)
    machine = examine_machine()
    model = _examine_model(settings)
    engine = examine_engine(
        settings.engine_config(Path(model.path or "")), is_quantized=model.is_quantized
    )
    disk = _examine_disk(settings.cache_dir)
    may_quantize = settings.quantization == "auto" and settings.dtype in ("auto", "bfloat16")
    diagnosis = diagnose(
        machine, engine, model, disk, offline=settings.offline, may_quantize=may_quantize
    )
    if as_json:
        click.echo(_json(machine, engine, model, disk, diagnosis))
    else:
        click.echo(_text(machine, engine, model, disk, diagnosis))
    if diagnosis.problems:
        sys.exit(EXIT_PROBLEM)


def _examine_model(settings: Settings) -> ModelFacts:
    """Looks at what is here, without the network."""
    name = settings.model
    try:
        path = resolve_model(
            name,
            cache_dir=settings.cache_dir,
            offline=True,
            on_progress=lambda phase, fraction: None,
            extra_dirs=settings.model_dirs,
        )
    except ModelAbsentError:
        return ModelFacts(name)
    except CheckpointError as exc:
        return ModelFacts(name, problem=str(exc))
    try:
        checkpoint = open_checkpoint(path, require_weights=settings.load_format != "dummy")
    except CheckpointError as exc:
        return ModelFacts(name, str(path), problem=str(exc))
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return ModelFacts(
        name,
        str(path),
        num_bytes=sum(file.stat().st_size for file in files),
        num_parameters=checkpoint.num_parameters,
        architecture=checkpoint.config.architecture,
        max_model_len=checkpoint.config.max_model_len,
        is_quantized=checkpoint.is_quantized,
        has_chat_template=checkpoint.tokenizer.chat_template is not None,
    )


def _examine_disk(folder: Path) -> Disk:
    """Of the cache, or of the folder that it would be made in."""
    folders = (folder, *folder.absolute().parents)
    existing = next(path for path in folders if os.path.exists(path))  # "/" does
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return Disk(str(folder), None, False)
    return Disk(str(folder), free, os.path.isdir(existing) and os.access(existing, os.W_OK))


def _json(
    machine: Machine, engine: EngineProspect, model: ModelFacts, disk: Disk, diagnosis: Diagnosis
) -> str:
    report = {
        "octavo": server_version(),
        "python": platform.python_version(),
        "machine": asdict(machine) | {"cpu_flags": sorted(machine.cpu_flags)},
        "engine": asdict(engine),
        "model": asdict(model),
        "cache": asdict(disk),
        **asdict(diagnosis),
    }
    return json.dumps(report, indent=2)


def _text(
    machine: Machine, engine: EngineProspect, model: ModelFacts, disk: Disk, diagnosis: Diagnosis
) -> str:
    flags = [flag for flag in _TELLING_FLAGS if flag in machine.cpu_flags]
    free = "unknown" if disk.free_bytes is None else f"{in_words(disk.free_bytes)} free"
    free += "" if disk.is_writable else ", read-only"
    sections = {
        "Machine": {
            "processor": f"{machine.processor}, {machine.architecture}",
            "instructions": " ".join(flags) or "none that kernels make use of",
            "cores": f"{machine.usable_cpus} usable of {machine.num_cpus}",
            "memory": f"{in_words(machine.available_memory)} free of "
            f"{in_words(machine.total_memory)}",
            "GPU": "; ".join(engine.gpus or machine.gpus) or "none",
            "cache": f"{shown_path(Path(disk.path))}, {free}",
        },
        "Software": {
            "octavo": f"{server_version()} on Python {platform.python_version()}",
            "torch": engine.torch or "cannot be used",
            "CUDA": engine.cuda_build or "not in this build of torch"
            if engine.torch
            else "unknown",
            "compiler": engine.compiler or ("none" if engine.torch else "unknown"),
        },
        "Model": _model_rows(model),
        "Engine": {
            "runs on": f"{engine.device or 'unknown'}, {engine.dtype or 'unknown'}"
            + (f", {engine.num_threads} threads" if engine.device == "cpu" else ""),
            "because": engine.reason or "unknown",
            "kernels": engine.kernels or "unknown",
        },
    }
    lines = []
    for heading, rows in sections.items():
        lines += [heading, *(f"  {name:<13} {value}" for name, value in rows.items()), ""]
    lines += [f"problem: {problem}" for problem in diagnosis.problems]
    lines += [f"faster:  {hint}" for hint in diagnosis.hints]
    if not diagnosis.problems:
        lines.append(f"`octavo serve` can serve {model.name} here.")
    return "\n".join(lines)


def _model_rows(model: ModelFacts) -> dict[str, str]:
    if model.path is None:
        state = "cannot be found" if model.problem else "not here yet: `octavo pull` fetches it"
        return {"name": model.name, "state": state}
    rows = {"name": model.name, "path": shown_path(Path(model.path))}
    if model.architecture is not None:
        rows["weights"] = (
            f"{model.architecture}, {model.num_parameters / 1e6:,.0f} M parameters, "
            f"{in_words(model.num_bytes)}{', quantized' if model.is_quantized else ''}"
        )
        rows["context"] = f"{model.max_model_len:,} tokens"
        rows["chat"] = "has a template" if model.has_chat_template else "has no template"
    return rows
