"""What `octavo doctor` makes of what it found: problems that keep a server from starting, and hints
at what would make it faster. Pure: facts in, lines out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine import EngineProspect, Machine
from server.cli.options import in_words

# A model's weights are not all that needs memory.
_MEMORY_FACTOR = 1.5
_MIN_FREE_DISK = 1 << 30

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Of x86 and of arm64: without any, quantized weights are multiplied as plain numbers.
_QUANTIZED_FLAGS = {"avx2", "asimddp"}


@dataclass(frozen=True)
class ModelFacts:
    """The model that would be served. `path` is None while it has to be downloaded; `problem` says
    in a line why it cannot be served."""

    name: str
    path: str | None = None
    num_bytes: int = 0
    num_parameters: int = 0
    architecture: str | None = None
    max_model_len: int = 0
    is_quantized: bool = False
    has_chat_template: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Disk:
    """The cache folder; `free_bytes` is None where it cannot be told."""

    path: str
    free_bytes: int | None
    is_writable: bool


@dataclass(frozen=True)
class Diagnosis:
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def diagnose(
    machine: Machine,
    engine: EngineProspect,
    model: ModelFacts,
    disk: Disk,
    *,
    offline: bool,
    may_quantize: bool = True,
) -> Diagnosis:
    """`may_quantize`: nothing was asked for that `--quantization` would go against."""
    problems, hints = [], []
    if engine.error is not None:
        problems.append(f"the engine cannot be started: {engine.error}")
    if model.problem is not None:
        problems.append(model.problem)
    if model.path is None and model.problem is None and offline:
        problems.append(f"{model.name} is not on this machine, and --offline forbids to fetch it")
    if not disk.is_writable and model.path is None:
        problems.append(f"{disk.path} cannot be written, where the model would be kept")
    if disk.free_bytes is not None and disk.free_bytes < _MIN_FREE_DISK:
        hints.append(f"free some disk: {disk.path} has {in_words(disk.free_bytes)} left")
    if model.num_bytes * _MEMORY_FACTOR > machine.available_memory and not engine.gpus:
        hints.append(
            f"free some memory, or take a smaller model: {model.name} has "
            f"{in_words(model.num_bytes)} of weights and {in_words(machine.available_memory)} "
            "are free"
        )
    hints += _about_gpus(machine, engine)
    if engine.device == "cpu":
        hints += _about_cpu(machine, engine, model, may_quantize)
    return Diagnosis(problems, hints)


def _about_gpus(machine: Machine, engine: EngineProspect) -> list[str]:
    if machine.gpus and engine.torch is not None and not engine.gpus:
        if engine.cuda_build is None:
            return [f"install PyTorch's CUDA build: this one ({engine.torch}) cannot use the GPU"]
        return ["torch does not see the GPU: compare its CUDA version with the driver's"]
    if engine.gpus and engine.device == "cpu":
        return ["there is a GPU: --device cuda"]
    return []


def _about_cpu(
    machine: Machine, engine: EngineProspect, model: ModelFacts, may_quantize: bool
) -> list[str]:
    hints = []
    if engine.kernels is not None and engine.kernels.startswith("plain torch"):
        if engine.compiler is None:
            hints.append("install a C++ compiler (g++ or clang++): the fast kernels need one")
        else:
            hints.append(f"the C++ kernels do not work here: {engine.kernels}")
    elif not _QUANTIZED_FLAGS & machine.cpu_flags:
        hints.append("a processor with AVX2 or better multiplies quantized weights as they are")
    if may_quantize and engine.stays_quantized and not model.is_quantized and model.path:
        hints.append("--quantization int8: 8-bit weights are fast on this processor")
    elif engine.dtype == "float32" and not _BFLOAT16_FLAGS & machine.cpu_flags and model.path:
        hints.append("this processor has no fast bfloat16; float32 takes twice the memory")
    if machine.usable_cpus < machine.num_cpus:
        hints.append(
            f"{machine.usable_cpus} of {machine.num_cpus} cores may be used: more would help, "
            "if the container's limit allows"
        )
    if machine.huge_pages == "never":
        hints.append(
            "let the system use huge pages: "
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        )
    if not machine.gpus:
        hints.append("larger models want a GPU")
    return hints
