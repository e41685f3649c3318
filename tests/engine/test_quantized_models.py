"""Whole models with quantized weights: near the plain ones, and the same for a request in company.

The path that CPUs take by default. Where quantized weights are not multiplied as they are (no C++
compiler, no AVX2, a GPU) there is nothing to test.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import write_gguf
from tiny_models import BareEngine, Chunk, save_tiny_model

from engine import EngineConfig, EngineStartError, Request, SamplingParams
from engine.config import Quantization
from engine.core import EngineCore
from engine.kernels import select
from engine.runner import ModelRunner

# Relative error of the logits (1.4 if they had nothing in common). Random weights are harder than
# real ones: bfloat16 alone makes 0.05, int8 0.1, int4 0.6.
TOLERANCES: dict[Quantization, float] = {"int8": 0.2, "int4": 0.9}
TOKEN_IDS = [(17 * i) % 199 for i in range(150)]


@pytest.fixture(autouse=True)
def _needs_quantized_products() -> None:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")  # a compiler that refuses our source is a failure
    if not select(torch.device("cpu"), torch.bfloat16, "cpu").takes_grouped(32):
        pytest.skip("this processor has no such instructions")


@pytest.mark.parametrize("family", ["smollm2", "qwen2"])  # a tied head, and biases
@pytest.mark.parametrize("quantization", TOLERANCES)
def test_logits_are_near_those_of_the_plain_weights(
    tmp_path: Path, family: str, quantization: Quantization
) -> None:
    save_tiny_model(family, tmp_path)
    [expected] = BareEngine(tmp_path).run([Chunk(0, TOKEN_IDS, 0)])
    engine = BareEngine(tmp_path, dtype=torch.bfloat16, quantization=quantization)
    assert "8-bit weights" in engine.kernels.describe()
    [logits] = engine.run([Chunk(0, TOKEN_IDS, 0)])
    assert logits.dtype == torch.float32
    assert (logits - expected).norm() < TOLERANCES[quantization] * expected.norm()


def test_a_row_does_not_depend_on_the_others_nor_on_chunks(tmp_path: Path) -> None:
    save_tiny_model("smollm2", tmp_path)
    engine = BareEngine(tmp_path, dtype=torch.bfloat16, quantization="int8")
    [alone] = engine.run([Chunk(0, TOKEN_IDS, 0)])
    others = [Chunk(row, TOKEN_IDS[row : row + 9 * row], 0) for row in range(2, 12)]
    [_, among, *_] = engine.run([others[0], Chunk(1, TOKEN_IDS, 0), *others[1:]])
    assert torch.equal(among, alone)
    [first] = engine.run([Chunk(3, TOKEN_IDS[:149], 0)])
    [last] = engine.run([Chunk(3, TOKEN_IDS[149:], 149)])
    assert torch.equal(torch.cat((first, last)), alone)


@pytest.mark.parametrize("family", ["smollm2", "qwen2", "qwen3", "smollm3"])
def test_fused_layers_are_the_layers(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any number of threads, again and again: they take their parts in another order."""
    save_tiny_model(family, tmp_path)
    before = torch.get_num_threads()
    chunks = [Chunk(row, TOKEN_IDS[: 1 + 40 * row], 0) for row in range(4)]
    layer_by_layer = BareEngine(tmp_path, dtype=torch.bfloat16, quantization="int8")
    monkeypatch.setattr(layer_by_layer.kernels, "fuse", lambda layers: None)
    expected = torch.cat(layer_by_layer.run(chunks))
    fused = BareEngine(tmp_path, dtype=torch.bfloat16, quantization="int8")
    try:
        for num_threads in [1, 2, 3, 2] * 5:
            torch.set_num_threads(num_threads)
            assert torch.equal(torch.cat(fused.run(chunks)), expected)
    finally:
        torch.set_num_threads(before)


def test_none_keeps_plain_weights(builtin_model: Path) -> None:
    config = EngineConfig(
        str(builtin_model), dtype="bfloat16", quantization="none", kv_cache_memory=64 << 20
    )
    info = ModelRunner.load(config, lambda phase, fraction: None).info
    assert "bit weights" not in info.kernels
    assert "bfloat16 weights" in info.kernels


def test_rounding_needs_bfloat16(tmp_path: Path) -> None:
    save_tiny_model("smollm2", tmp_path)
    config = EngineConfig(str(tmp_path), dtype="float32", quantization="int8")
    with pytest.raises(EngineStartError, match=r"'int8' needs .*bfloat16"):
        ModelRunner.load(config, lambda phase, fraction: None)


def _drawn(runner: ModelRunner, requests: list[Request]) -> dict[tuple[str, int], list[int]]:
    core = EngineCore(runner, runner.scheduler_config)
    drawn: dict[tuple[str, int], list[int]] = {}
    for request in requests:
        core.add(request)
    while core.has_work:
        for output in core.step():
            assert output.error is None
            drawn.setdefault((output.request_id, output.index), []).extend(output.token_ids)
    return drawn


def _request(which: int) -> Request:
    """Prompts of 1 to 150 tokens, greedy ones and seeded ones."""
    prompt = [20 + (31 * i * (which + 1)) % 40000 for i in range(1 + 37 * which % 150)]
    sampling = SamplingParams(
        temperature=(0.0, 1.0)[which % 2], top_p=(1.0, 0.9)[which // 2 % 2], seed=which,
        max_tokens=24,
    )  # fmt: skip
    return Request(f"r{which}", prompt, sampling)


@pytest.mark.timeout(300)
def test_alone_and_among_31_others(builtin_model: Path) -> None:
    config = EngineConfig(
        str(builtin_model), dtype="bfloat16", kv_cache_memory=256 << 20, max_num_batched_tokens=200
    )
    runner = ModelRunner.load(config, lambda phase, fraction: None)
    assert "4-bit weights" in runner.info.kernels
    together = _drawn(runner, [_request(which) for which in range(32)])
    for which in (0, 3, 9, 30, 31):
        alone = _drawn(runner, [_request(which)])
        assert alone == {(f"r{which}", 0): together[f"r{which}", 0]}
        assert len(alone[f"r{which}", 0]) > 1


@pytest.mark.parametrize(
    ("file_dtype", "dtype", "weights"),
    [("Q8_0", "bfloat16", "8-bit weights"), ("F16", "float32", "float32 weights")],
)
def test_without_fast_bfloat16_a_quantized_file_stays_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_dtype: str, dtype: str, weights: str
) -> None:
    """What it is multiplied with is bfloat16 then, and a plain file's numbers are float32."""
    monkeypatch.setattr("engine.device.cpu_flags", lambda: frozenset({"avx2"}))
    path = write_gguf(tmp_path / "m.gguf", dtype=file_dtype)
    runner = ModelRunner.load(
        EngineConfig(str(path), device="cpu", kv_cache_memory=1 << 20, max_num_seqs=2),
        lambda phase, fraction: None,
    )
    assert runner.info.dtype == dtype
    assert weights in runner.info.kernels


def test_without_compiled_kernels_a_quantized_file_is_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.device.cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr("engine.kernels.cpu.build.COMPILED_AHEAD", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write_gguf(tmp_path / "m.gguf", dtype="Q8_0")
    runner = ModelRunner.load(
        EngineConfig(str(path), device="cpu", kv_cache_memory=1 << 20, max_num_seqs=2),
        lambda phase, fraction: None,
    )
    assert (runner.info.dtype, runner.info.kernels) == (
        "float32",
        "plain torch (no C++ compiler)",
    )
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
