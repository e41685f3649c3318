"""The C++ kernels against the reference, and what they promise beyond it.

Where there is no C++ compiler there is nothing to test but that the server does without.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attention_step import Step, make_step
from ragged_layout import ragged_layout

from engine.attention import AttentionRule, StepLayout
from engine.kernels import select
from engine.kernels.base import Kernels

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
BLOCK_SIZE = 16
DTYPES = [torch.float32, torch.bfloat16]
# query heads, KV heads, head size
SHAPES = [(9, 3, 64), (14, 2, 64), (4, 4, 128), (5, 1, 128), (7, 1, 80), (2, 2, 24)]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    assert isinstance(request.param, torch.dtype)
    return request.param


@pytest.fixture
def kernels(dtype: torch.dtype) -> Kernels:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")  # a compiler that refuses our source is a failure
    return select(CPU, dtype, "cpu")


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def only_row(step: Step, index: int) -> Step:
    """The same step with one of its rows alone."""
    span = step.layout.spans[index]
    tokens = slice(span.first_token, span.first_token + span.num_tokens)
    layout = StepLayout(
        spans=[type(span)(span.row, 0, span.num_tokens, span.start)],
        rows=step.layout.rows[tokens].clone(),
        positions=step.layout.positions[tokens].clone(),
        block_tables=step.layout.block_tables,
        blank_block=step.layout.blank_block,
        block_size=BLOCK_SIZE,
        num_heads=step.layout.num_heads,
        num_kv_heads=step.layout.num_kv_heads,
        head_dim=step.layout.head_dim,
    )
    return Step(layout, step.qkv[tokens], step.cos_sin[tokens], step.kv)


def random_spans(rng: random.Random, count: int) -> list[tuple[int, int]]:
    starts = [0, 1, 15, 16, 17, 100, 255, 256, 257, 511, 700, 1040]
    lengths = [1, 1, 1, 1, 2, 5, 16, 33, 300]
    return [(rng.choice(starts), rng.choice(lengths)) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_the_reference_s(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(sum(shape))
    step = make_step(random_spans(random.Random(sum(shape)), 6), shape, dtype)  # noqa: S311
    attended, kv = step.run(kernels)
    # The oracle reads whole pages: it gets zeros where ours gets NaN.
    clean = Step(step.layout, step.qkv, step.cos_sin, step.kv.nan_to_num(nan=0.0))
    # In float32, so that bf16 is compared with what it rounds.
    wide = Step(clean.layout, clean.qkv.float(), clean.cos_sin, clean.kv.float())
    expected, expected_kv = wide.run(select(CPU, torch.float32, "reference"))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(attended.float(), expected, rtol=tolerance, atol=tolerance)
    written = ~kv.isnan()
    assert torch.equal(written.any(-1), written.all(-1))
    torch.testing.assert_close(
        kv.nan_to_num(nan=0.0).float(), expected_kv, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("window", [1, 30, 256, 400, 2000])
@pytest.mark.parametrize("shape", [(9, 3, 64), (5, 1, 128)], ids=str)
def test_rules_are_the_reference_s(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int], window: int, num_threads: int
) -> None:
    """Pages before every window of a row are not read: they hold NaN."""
    torch.manual_seed(window)
    step = make_step(random_spans(random.Random(window), 9), shape, dtype)  # noqa: S311
    clean = step.clean()
    reference = select(CPU, torch.float32, "reference")
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for rule in (AttentionRule(window), AttentionRule(window, soft_cap=4.0, scale=0.2)):
        attended, _ = step.without_unread(window, BLOCK_SIZE).run(kernels, rule)
        expected, _ = clean.run(reference, rule)
        torch.testing.assert_close(attended.float(), expected, rtol=tolerance, atol=tolerance)
        for i, span in enumerate(step.layout.spans):
            alone, _ = only_row(step, i).run(kernels, rule)
            tokens = slice(span.first_token, span.first_token + span.num_tokens)
            assert torch.equal(alone, attended[tokens])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_alone_is_the_row_among_others(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int], num_threads: int
) -> None:
    torch.manual_seed(1)
    step = make_step(random_spans(random.Random(7), 16), shape, dtype)  # noqa: S311
    together, _ = step.run(kernels)
    assert together.isfinite().all()
    for i, span in enumerate(step.layout.spans):
        alone, _ = only_row(step, i).run(kernels)
        assert torch.equal(alone, together[span.first_token : span.first_token + span.num_tokens])


def test_threads_and_chunks_change_no_bit(kernels: Kernels, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    before = torch.get_num_threads()
    step = make_step([(0, 700)], (9, 3, 64), dtype)
    whole, written = step.run(kernels)
    filled = Step(step.layout, step.qkv, step.cos_sin, written)
    try:
        for num_threads, length in [(1, 700), (2, 1), (2, 7), (3, 48), (2, 699)]:
            torch.set_num_threads(num_threads)
            for start in {0, 250 // length * length, (700 - length) // length * length}:
                chunk = make_chunk(filled, start, length)
                attended, _ = chunk.run(kernels)
                assert torch.equal(attended, whole[start : start + length])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("window", [None, 5000])
def test_long_contexts_are_merged_in_order(
    kernels: Kernels, dtype: torch.dtype, window: int | None
) -> None:
    """So long that two threads do not keep all their parts at once (`kWaitingFloats`)."""
    torch.manual_seed(3)
    before = torch.get_num_threads()
    step = make_step([(6500, 3), (700, 3)], (48, 3, 128), dtype)
    try:
        torch.set_num_threads(1)
        one_after_the_other, _ = step.run(kernels, AttentionRule(window))
        torch.set_num_threads(2)
        together, _ = step.run(kernels, AttentionRule(window))
    finally:
        torch.set_num_threads(before)
    assert one_after_the_other.isfinite().all()
    assert torch.equal(together, one_after_the_other)


def make_chunk(step: Step, start: int, length: int) -> Step:
    """Tokens `start` to `start + length` of a step of one row that begins at position 0."""
    chunk = only_row(step, 0)
    tokens = slice(start, start + length)
    (span,) = chunk.layout.spans
    layout = StepLayout(
        spans=[type(span)(span.row, 0, length, start)],
        rows=chunk.layout.rows[tokens],
        positions=chunk.layout.positions[tokens],
        block_tables=chunk.layout.block_tables,
        blank_block=chunk.layout.blank_block,
        block_size=BLOCK_SIZE,
        num_heads=chunk.layout.num_heads,
        num_kv_heads=chunk.layout.num_kv_heads,
        head_dim=chunk.layout.head_dim,
    )
    return Step(layout, chunk.qkv[tokens], chunk.cos_sin[tokens], chunk.kv)


@pytest.mark.parametrize("width", [576, 1536, 40, 33])
@pytest.mark.parametrize("num_rows", [1, 5, 300])
def test_norms_and_silu_are_the_reference_s(
    kernels: Kernels, dtype: torch.dtype, width: int, num_rows: int, num_threads: int
) -> None:
    torch.manual_seed(width)
    reference = select(CPU, dtype, "reference")
    x, residual = torch.randn(2, num_rows, width).to(dtype)
    weight, gate_up = torch.randn(width).to(dtype), 5 * torch.randn(num_rows, 2 * width).to(dtype)
    kernels.plan(ragged_layout([(0, 1)], 1, 1, 8, 16)[0])  # takes over the number of threads
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    close = {"rtol": tolerance, "atol": tolerance}
    normed = kernels.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(normed, reference.rms_norm(x, weight, 1e-5), **close)
    added = kernels.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
    expected = reference.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
    torch.testing.assert_close(added, expected, **close)
    gated = kernels.silu_mul(gate_up).clone()
    torch.testing.assert_close(gated, reference.silu_mul(gate_up.clone()), **close)
    for row in range(0, num_rows, 37):
        one = slice(row, row + 1)
        assert torch.equal(kernels.rms_norm(x[one], weight, 1e-5), normed[one])
        assert torch.equal(kernels.silu_mul(gate_up[one]), gated[one])
        alone = kernels.add_rms_norm(x[one].clone(), residual[one].clone(), weight, 1e-5)
        assert torch.equal(torch.stack(alone)[:, 0], torch.stack(added)[:, row])


def test_norms_with_a_float32_weight(kernels: Kernels, dtype: torch.dtype) -> None:
    """It is not rounded to the number format of x: the result is the wide one's, rounded once."""
    torch.manual_seed(1)
    x, residual, weight = torch.randn(9, 96).to(dtype), torch.randn(9, 96).to(dtype), torch.rand(96)
    for own in (kernels, select(CPU, dtype, "reference")):
        added, summed = own.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
        for found, numbers in ((own.rms_norm(x, weight, 1e-5), x), (added, summed)):
            wide = select(CPU, torch.float32, "reference").rms_norm(numbers.float(), weight, 1e-5)
            assert found.dtype == dtype
            rounding = torch.finfo(dtype).eps / 2 + 1e-6
            torch.testing.assert_close(found.float(), wide, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("width", [576, 1536, 40, 33])
@pytest.mark.parametrize("num_rows", [1, 5, 300])
def test_layer_norm_and_gelu_are_the_reference_s(
    kernels: Kernels, dtype: torch.dtype, width: int, num_rows: int, num_threads: int
) -> None:
    torch.manual_seed(width)
    reference = select(CPU, dtype, "reference")
    x, residual = torch.randn(2, num_rows, width).add_(1).to(dtype)
    weight, bias = torch.randn(2, width).to(dtype)
    gate_up = 3 * torch.randn(num_rows, 2 * width).to(dtype)
    kernels.plan(ragged_layout([(0, 1)], 1, 1, 8, 16)[0])  # takes over the number of threads
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    close = {"rtol": tolerance, "atol": tolerance}
    added = kernels.add_layer_norm(x.clone(), residual.clone(), weight, bias, 1e-5)
    expected = reference.add_layer_norm(x.clone(), residual.clone(), weight, bias, 1e-5)
    torch.testing.assert_close(added, expected, **close)
    activated = kernels.gelu(gate_up).clone()
    torch.testing.assert_close(activated, reference.gelu(gate_up), **close)
    gated = kernels.gelu_mul(gate_up).clone()
    wide = select(CPU, torch.float32, "reference").gelu_mul(gate_up.float())
    torch.testing.assert_close(gated.float(), wide, **close)
    for row in range(0, num_rows, 37):
        one = slice(row, row + 1)
        assert torch.equal(kernels.gelu(gate_up[one]), activated[one])
        assert torch.equal(kernels.gelu_mul(gate_up[one]), gated[one])
        alone = kernels.add_layer_norm(x[one].clone(), residual[one].clone(), weight, bias, 1e-5)
        assert torch.equal(torch.stack(alone)[:, 0], torch.stack(added)[:, row])


def test_extremes_of_gelu(kernels: Kernels, dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, -0.0, 200.0, -200.0, torch.inf, torch.nan, 1e30]], dtype=dtype)
    expected = torch.tensor([[0.0, 0.0, 200.0, 0.0, torch.inf, torch.nan, 1e30]], dtype=dtype)
    torch.testing.assert_close(kernels.gelu(x), expected, rtol=0, atol=1e-30, equal_nan=True)


def test_extremes_stay_what_they_are(kernels: Kernels, dtype: torch.dtype) -> None:
    gate = torch.tensor([0.0, -0.0, 200.0, -200.0, torch.inf, torch.nan, 1e30], dtype=dtype)
    gated = kernels.silu_mul(torch.cat((gate, torch.ones_like(gate)))[None])[0]
    expected = torch.tensor([0.0, 0.0, 200.0, 0.0, torch.inf, torch.nan, 1e30], dtype=dtype)
    torch.testing.assert_close(gated, expected, rtol=0, atol=1e-30, equal_nan=True)
    step = make_step([(3, 2), (40, 1)], (2, 1, 64), dtype)
    step.qkv[2, 0, 5] = torch.nan
    attended, _ = step.run(kernels)
    assert attended[2, 0].isnan().all()
    assert attended[:2].isfinite().all() and attended[2, 1].isfinite().all()
    large = make_step([(300, 1), (0, 40)], (2, 1, 64), dtype)
    large.qkv.mul_(1e4)
    assert large.run(kernels)[0].isfinite().all()


_ONE_POOL = """
import torch
from engine.kernels import select
from engine.kernels.cpu.build import openmp_runtimes
assert "C++" in select(torch.device("cpu"), torch.float32, "cpu").describe()
print(*openmp_runtimes())
"""


def test_torch_and_the_kernels_share_one_pool_of_threads(kernels: Kernels) -> None:
    """In a process of its own: other tests' oracles bring their own runtimes into this one."""
    assert "C++" in kernels.describe()
    run = subprocess.run(
        [sys.executable, "-c", _ONE_POOL], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len(run.stdout.split()) == 1, run.stdout
