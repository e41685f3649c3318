"""The checks of the GPU benchmarks find what is wrong, and pass what is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import check_sampler as sampler_check
from benchmarks.gpu.check_kernels import check_kernels, make_sizes
from benchmarks.gpu.check_sampler import check_sampler
from benchmarks.gpu.check_tokens import Oracle, make_jobs, save_model
from benchmarks.gpu.driving import Engine, Setup
from engine.attention import AttentionPlan
from engine.kernels.base import HeadNorms
from engine.kernels.reference import ReferenceKernels
from engine.sampler import Sampled, SamplingState

CPU = torch.device("cpu")
SIZES = make_sizes(4, 2, 16, is_quick=True)


def wrong_operations(kernels: ReferenceKernels, dtype: torch.dtype) -> set[str]:
    reference = ReferenceKernels(CPU, dtype)
    with torch.inference_mode():
        errors = list(check_kernels(kernels, reference, SIZES, CPU, dtype))
    return {error.operation.split(",")[0].split()[0] for error in errors if not error.is_right}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_are_right(dtype: torch.dtype) -> None:
    assert not wrong_operations(ReferenceKernels(CPU, dtype), dtype)


class ForgetsScale(ReferenceKernels):
    def paged_attention(self, q: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        return super().paged_attention(1.05 * q, kv, plan)


class WritesElsewhere(ReferenceKernels):
    def rotary_store_kv(
        self,
        qkv: Tensor,
        cos_sin: Tensor,
        kv: Tensor,
        plan: AttentionPlan,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        q = super().rotary_store_kv(qkv, cos_sin, kv, plan, norms)
        kv[-1] = 1.0  # the blank page
        return q


class SwapsGate(ReferenceKernels):
    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return super().silu_mul(torch.cat(gate_up.chunk(2, dim=-1)[::-1], dim=-1))


class MakesNan(ReferenceKernels):
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return super().rms_norm(x, weight, eps) * float("nan")


@pytest.mark.parametrize(
    ("kernels", "operation"),
    [
        (ForgetsScale, "attention"),
        (WritesElsewhere, "pages"),
        (SwapsGate, "silu_mul"),
        (MakesNan, "rms_norm"),
    ],
)
def test_kernels_that_are_wrong(kernels: Callable[..., ReferenceKernels], operation: str) -> None:
    assert operation in wrong_operations(kernels(CPU, torch.bfloat16), torch.bfloat16)


def test_draws_that_are_right_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(draws.is_right for draws in check_sampler(CPU, 300, 11, 2))

    class OffByOne(SamplingState):
        """Its second instance, the device's, draws for the next position."""

        made = 0

        def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
            super().__init__(max_num_seqs, vocab_size, device)
            self.shift = OffByOne.made % 2
            OffByOne.made += 1

        def sample(self, logits: Tensor, rows: list[int], positions: list[int]) -> Sampled:
            return super().sample(logits, rows, [p + self.shift for p in positions])

    monkeypatch.setattr(sampler_check, "SamplingState", OffByOne)
    wrong = {draws.name for draws in check_sampler(CPU, 300, 11, 2) if not draws.is_right}
    assert {"temperature", "top_k", "top_p", "min_p", "mixed"} <= wrong
    assert "greedy" not in wrong


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_oracle_judges_each_token(temperature: float, tmp_path: Path) -> None:
    shape = "qwen3-tiny"
    model = save_model(shape, tmp_path)
    jobs = make_jobs(512, is_quick=True)
    engine = Engine(model, Setup(CPU, "float32", 4, 160, 2, 1 << 24, "auto"))
    outputs = list(engine.run(jobs, temperature).outputs.values())
    oracle = Oracle(model, CPU, "float32")
    verdict = oracle.judge(jobs, outputs, temperature)
    assert verdict.is_right
    assert verdict.num_tokens == sum(job.output_len for job in jobs)
    outputs[-1][-1] = (outputs[-1][-1] + 1) % 512
    changed = oracle.judge(jobs, outputs, temperature)
    assert not changed.is_right
    assert changed.num_best == verdict.num_best - 1


def test_the_oracle_sees_another_rotary_base(tmp_path: Path) -> None:
    model = save_model("llama-tiny", tmp_path)
    jobs = make_jobs(512, is_quick=True)
    oracle = Oracle(model, CPU, "bfloat16")
    config = model / "config.json"
    text = config.read_text()
    assert "500000.0" in text
    config.write_text(text.replace("500000.0", "10000.0"))
    engine = Engine(model, Setup(CPU, "bfloat16", 4, 160, 1, 1 << 24, "auto"))
    outputs = list(engine.run(jobs, 0.0).outputs.values())
    assert not oracle.judge(jobs, outputs, 0.0).is_right
