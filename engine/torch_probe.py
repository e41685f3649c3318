"""Says what an engine would compute with: JSON on standard input, a JSON object a line on standard
output, as things become known. Run as a process of its own by `examine.py`.

Failures are its exit status and the last line of standard error: whoever started it reads that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from engine.config import EngineConfig
from engine.device import resolve_target
from engine.kernels import check_quantization, keeps_quantized, select
from engine.kernels.cpu.build import find_compiler


def main() -> None:
    job = json.load(sys.stdin)
    config = EngineConfig(**job["config"])
    cache_dir = Path(config.cache_dir) if config.cache_dir else None
    _tell(torch=torch.__version__, cuda_build=torch.version.cuda, compiler=find_compiler())
    _tell(gpus=[_describe(index) for index in range(torch.cuda.device_count())])
    target = resolve_target(config, lambda: job["is_quantized"] and keeps_quantized(cache_dir))
    _tell(
        device=str(target.device),
        dtype=target.dtype_name,
        num_threads=target.num_threads,
        reason=target.reason,
    )
    kernels = select(target.device, target.dtype, cache_dir=cache_dir)
    is_on_cpu = target.device.type == "cpu"
    _tell(
        kernels=kernels.describe(),
        stays_quantized=keeps_quantized(cache_dir) if is_on_cpu else None,
    )
    check_quantization(config.quantization, kernels, target.dtype_name)


def _describe(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    capability = f"{properties.major}.{properties.minor}"
    memory = properties.total_memory / 1e9
    return f"{properties.name}, {memory:.0f} GB, compute capability {capability}"


def _tell(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
