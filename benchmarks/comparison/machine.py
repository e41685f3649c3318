"""What this machine is, in a line for reports, and what the built-in model costs on any machine."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from comparison.results import ModelSize

from engine.checkpoint import (
    BUILTIN_MODEL,
    default_cache_dir,
    open_checkpoint,
    resolve_model,
)
from engine.errors import CheckpointError

FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16"}
FLAGS |= {"amx_int8": "AMX"}
NUM_FILES = 8192


def describe_machine() -> str:
    """Processor, cores, instructions that matter, memory."""
    cores = len(os.sched_getaffinity(0))
    name, flags = "unknown processor", set[str]()
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = set(value.split())
            break
    known = [label for flag, label in FLAGS.items() if flag in flags]
    memory = ""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            memory = f", {int(line.split()[1]) / 2**20:.0f} GiB"
    return f"{cores} cores of {name} ({' '.join(known)}){memory}"


def model_size() -> ModelSize | None:
    """Of the built-in model, if it is in the cache."""
    try:
        path = resolve_model(
            BUILTIN_MODEL,
            cache_dir=Path(os.environ.get("OCTAVO_CACHE") or default_cache_dir()),
            offline=True,
            on_progress=lambda phase, fraction: None,
        )
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return None
    config = checkpoint.config
    output = config.vocab_size * config.hidden_size
    return ModelSize(
        num_parameters=checkpoint.num_parameters,  # its head is tied
        output_parameters=output,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        quantized_bytes=path.stat().st_size,
    )


def raise_open_files() -> None:
    """As many as a thousand idle connections need, here and in the servers started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = NUM_FILES if hard == resource.RLIM_INFINITY else min(NUM_FILES, hard)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
