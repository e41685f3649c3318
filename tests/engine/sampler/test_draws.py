"""Which draw serves which device."""

import importlib
import logging
from types import ModuleType
from typing import Any

import pytest
import torch

from engine.sampler import draws
from engine.sampler.torch_draw import TorchDraw


class NeverBuilt:
    """Records what a `TorchDraw` is asked for: no machine needs the device."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args = args
        self.options = options


def test_the_cpu_draws_in_torch() -> None:
    assert isinstance(draws.select(50, torch.device("cpu")), TorchDraw)


@pytest.mark.parametrize("error", [ImportError("no triton"), RuntimeError("no C compiler")])
def test_a_gpu_without_working_kernels_sorts_and_says_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> ModuleType:
        assert name == "engine.sampler.triton"
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    monkeypatch.setattr(draws, "TorchDraw", NeverBuilt)
    with caplog.at_level(logging.WARNING, "octavo.engine"):
        draw = draws.select(50, torch.device("cuda"))
    assert isinstance(draw, NeverBuilt)
    assert draw.options == {"sorts_nuclei": True}
    assert str(error) in caplog.text
