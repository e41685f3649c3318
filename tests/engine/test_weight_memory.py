"""What weights will take, reckoned beforehand, against what they took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import Quantization
from engine.errors import EngineStartError
from engine.kernels import select
from engine.models import build_model
from engine.weight_memory import check_weights_fit, weight_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("quantization", "dtype", "expected"),
    [
        # SmolLM2-135M: 106 M weights in the layers, 28 M in the vocabulary.
        ("none", torch.float32, 538e6),
        ("none", torch.bfloat16, 269e6),
        ("int8", torch.bfloat16, 151e6),
        ("int4", torch.bfloat16, 98e6),
        ("auto", torch.bfloat16, 84e6),
    ],
)
def test_the_built_in_model(
    builtin_model: Path, quantization: Quantization, dtype: torch.dtype, expected: float
) -> None:
    checkpoint = open_checkpoint(builtin_model)
    kernels = select(CPU, dtype, "auto")
    model = build_model(checkpoint.config, kernels, CPU)
    if quantization != "none" and not kernels.takes_grouped(32):
        pytest.skip("this CPU keeps nothing quantized")
    found = weight_bytes(
        model.weight_groups(), dtype.itemsize, quantization, checkpoint.weight_type
    )
    assert found == pytest.approx(expected, rel=0.02)


def test_enough_and_one_byte_too_few() -> None:
    check_weights_fit(1000, 1000, "main memory")
    with pytest.raises(EngineStartError, match=r"about 15\.2 GB and of main memory 8\.0 GB are"):
        check_weights_fit(15_200_000_000, 8_000_000_000, "main memory")
