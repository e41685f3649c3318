"""The arithmetic of the GPU benchmarks: workloads, ceilings, times, reports."""

from __future__ import annotations

import time
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.ceilings import ModelBytes
from benchmarks.gpu.driving import Engine, Run, Setup
from benchmarks.gpu.environment import find_environment
from benchmarks.gpu.kernel_cases import LAYERS, TARGET, CaseMaker, Layer, attention_cost
from benchmarks.gpu.options import TimeLeft
from benchmarks.gpu.report import Figure, Report, format_table, ratio, read_figures
from benchmarks.gpu.shapes import write_config
from benchmarks.gpu.timing import covered, read_trace, time_in_turn
from benchmarks.gpu.workload import least_seconds
from benchmarks.gpu.workloads import Job, equal_streams, published_workload
from engine.attention import AttentionPlan
from engine.kernels.base import HeadNorms
from engine.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")


def test_the_published_workload() -> None:
    jobs = published_workload()
    assert len(jobs) == 256
    assert sum(job.output_len for job in jobs) == 133_966, "nano-vllm's published number"
    assert {100 <= len(job.prompt_token_ids) <= 1024 for job in jobs} == {True}


def test_streams_differ_by_seed() -> None:
    one, other = (equal_streams(2, 10, 5, 512, seed) for seed in (1, 2))
    assert [len(job.prompt_token_ids) for job in one] == [10, 10]
    assert one != other
    assert one[0].shifted(3, 512).prompt_token_ids == [
        (token_id + 3) % 512 for token_id in one[0].prompt_token_ids
    ]


def test_what_models_weigh(tmp_path: Path) -> None:
    llama = ModelBytes.of_folder(write_config("llama-3.1-8b", tmp_path))
    assert llama.weights == 2 * 8_030_261_248
    assert llama.weights - llama.read == 2 * 128_256 * 4096
    assert llama.per_token == 131_072
    qwen = ModelBytes.of_folder(write_config("qwen3-0.6b", tmp_path))
    assert qwen.read == qwen.weights == 2 * 596_049_920
    assert llama.step_seconds(2, 10, 1e9) == (llama.read + 20 * 131_072) / 1e9


def test_the_least_that_a_workload_takes() -> None:
    model = ModelBytes(weights=100, read=100, per_token=1)
    # The first tokens come with the prompts. Then two steps: of both, and of the longer one alone.
    jobs = [Job([1] * 10, 3), Job([1] * 20, 2)]
    assert least_seconds(jobs, model, 1.0) == (100 + 11 + 21) + (100 + 12)


def test_a_trace() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    events = [
        {"cat": "kernel", "name": "a", "ts": 0.0, "dur": 2e6},
        {"cat": "kernel", "name": "b", "ts": 1e6, "dur": 2e6},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 8e6, "dur": 1e6},
        {"cat": "kernel", "name": "a", "ts": 9e6, "dur": 1e6},
        {"cat": "cpu_op", "name": "host", "ts": 3e6, "dur": 5e6},
        {"ph": "M", "name": "process_name"},
    ]
    trace = read_trace(events)
    assert trace.busy_seconds == pytest.approx(5)
    assert trace.num_kernels == 4
    assert trace.longest(1) == [("a", pytest.approx(3))]


def test_rates_and_intervals_of_a_run() -> None:
    run = Run(4.0, {"a": [1, 2, 3], "b": [4, 5]}, {"a": [1.0, 2.0, 4.0], "b": [1.5, 3.0]})
    assert run.output_rate == 5 / 4
    assert run.steady_rate() == pytest.approx(2 / 1.5)  # 2.0 and 3.0, between 1.5 and 3.0
    assert run.intervals() == [1.0, 1.5, 2.0]
    assert Run(1.0, {"a": []}, {"a": []}).steady_rate() is None


def test_a_run_that_is_cut_off_leaves_nothing_behind(tmp_path: Path) -> None:
    model = write_config("llama-tiny", tmp_path)
    engine = Engine(model, Setup(CPU, "float32", 4, 4096, 2, 1 << 26))
    run = engine.run(equal_streams(3, 20, 2000, 512, seed=1), 0.0, limit_s=0.0)
    assert run.is_cut_off
    assert run.num_tokens < 100
    assert not engine.core.has_work
    whole = engine.run(equal_streams(6, 20, 3, 512, seed=2), 0.0)
    assert (whole.is_cut_off, whole.num_tokens) == (False, 18)


def test_a_report_and_what_others_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("one", tmp_path, find_environment(CPU))
    report.figure(Figure("octavo", "case", {"output_rate": 30.0}))
    report.figure(Figure("octavo", "case", {"output_rate": 10.0}))
    report.figure(Figure("octavo", "case", {"output_rate": 20.0}))
    report.figure(Figure("octavo", "case", {"output_rate": 99.0}, "cut off"))
    other = Report("two", tmp_path, {})
    assert other.rate_of("octavo", "case") == 20.0, "the median"
    assert other.rate_of("vllm", "case") is None
    assert len(read_figures(tmp_path)) == 4
    other.target("10 of them", "12", True)
    other.target("20 of them", "12", False)
    printed = capsys.readouterr().out
    assert "10 of them: 12: reached" in printed
    assert "20 of them: 12: MISSED" in printed


def test_tables_and_ratios() -> None:
    text = format_table(["name", "value"], [["a", 12345.6], ["bcdef", None], ["c", 0.5]])
    assert text.splitlines() == ["name    value", "a      12,346", "bcdef       -", "c         0.5"]
    assert ratio(6.0, 3.0) == 2.0
    assert ratio(6.0, None) is ratio(None, 3.0) is ratio(6.0, 0.0) is None


def test_time_is_shared() -> None:
    assert 20 < TimeLeft(100.0).share(4) <= 25
    assert TimeLeft(0.0).share(4) == 0.0


def test_what_attention_costs() -> None:
    layer = LAYERS["llama-3.1-8b"]
    num_bytes, num_flops = attention_cost(layer, layer.steps[TARGET], 2)
    keys_and_values = 64 * 2048 * 2 * 8 * 128 * 2
    assert num_bytes == keys_and_values + 64 * 2 * 32 * 128 * 2
    assert num_flops == 4 * 64 * 2048 * 32 * 128
    # Three tokens after two others see 3, 4 and 5 positions.
    _, num_flops = attention_cost(layer, [(2, 3)], 2)
    assert num_flops == 4 * 12 * 32 * 128


class ForgetsPages(ReferenceKernels):
    def paged_attention(self, q: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        kv = kv.clone()
        kv[: len(kv) // 2] = 0
        return super().paged_attention(q, kv, plan)


class ForgetsNorms(ReferenceKernels):
    def rotary_store_kv(
        self,
        qkv: Tensor,
        cos_sin: Tensor,
        kv: Tensor,
        plan: AttentionPlan,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        return super().rotary_store_kv(qkv, cos_sin, kv, plan)


@pytest.mark.parametrize(
    ("kernels", "wrong"),
    [(ReferenceKernels, set()), (ForgetsPages, {"attention"}), (ForgetsNorms, {"head"})],
)
def test_timed_kernels_are_checked_on_what_they_are_timed_on(
    kernels: type[ReferenceKernels], wrong: set[str]
) -> None:
    layer = Layer(4, 2, 16, 64, 96, True, (3,), {"all": [(0, 33), (70, 1), (200, 1)]})
    maker = CaseMaker(kernels(CPU, torch.bfloat16), CPU, torch.bfloat16, 0)
    with torch.inference_mode():
        errors = {case.name: case.make().error() for case in maker.cases(layer)}
    assert {name.split()[0] for name, error in errors.items() if not error.is_right} == wrong


def test_what_runs_in_turn_is_timed_by_the_piece() -> None:
    calls: list[int] = []
    works = [lambda i=i: (calls.append(i), time.sleep(0.002)) for i in range(3)]
    seconds = time_in_turn(works, CPU)
    assert calls[:6] == [0, 1, 2, 0, 1, 2]
    assert 0.002 <= seconds < 0.1


def test_results_of_a_turn_lie_beside_each_other() -> None:
    """Memory that is written again and again is in a cache, and would look faster than it is."""
    made: list[weakref.ref[Tensor]] = []

    def work() -> Tensor:
        alive = [reference() is not None for reference in made[len(made) // 4 * 4 :]]
        assert all(alive)
        result = torch.zeros(3)
        made.append(weakref.ref(result))
        return result

    time_in_turn([work] * 4, CPU)
    assert len(made) % 4 == 0 and not any(reference() is not None for reference in made)


def test_what_rotating_and_storing_costs() -> None:
    """Queries, keys and values read and written, and a head's cosines and sines, in float32."""
    maker = CaseMaker(ReferenceKernels(CPU, torch.bfloat16), CPU, torch.bfloat16, 0)
    [case] = [c for c in maker.cases(LAYERS["qwen3-0.6b"]) if "store 64 x" in c.name]
    assert case.num_bytes == 64 * (2 * (16 + 2 * 8) * 128 * 2 + 128 * 4)
