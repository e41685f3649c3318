"""The Triton kernels against the reference: on the GPU where there is one, else interpreted.

The interpreter cuts numbers off where a GPU rounds them to bfloat16; that is twice the error.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from attention_step import Step, make_step, with_norms

from engine.attention import CAUSAL, AttentionRule, Span
from engine.kernels import select
from engine.kernels.base import Kernels

triton_kernels = pytest.importorskip("engine.kernels.triton", exc_type=ImportError)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# query heads, KV heads, head size, block size; groups of 1, 3, 4, 7, 8 and more than a small tile
SHAPES = [
    (2, 2, 128, 16),
    (9, 3, 64, 16),
    (8, 2, 80, 32),
    (7, 1, 64, 32),
    (8, 1, 128, 16),
    (20, 1, 16, 16),
]


@pytest.fixture(params=TOLERANCES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    assert isinstance(request.param, torch.dtype)
    return request.param


@pytest.fixture
def kernels(dtype: torch.dtype) -> Kernels:
    return select(DEVICE, dtype, "triton")


def launches(kernels: Kernels, step: Step) -> list[tuple[int, bool]]:
    """Number of splits of each launch, and whether the host wrote its tiles."""
    plan = kernels.plan(step.to(DEVICE).layout)
    return [(launch.num_splits, launch.tiles is not None) for launch in plan.launches]


def check(kernels: Kernels, step: Step, rule: AttentionRule = CAUSAL) -> None:
    """That `step` gives what it gives in the reference, and touches no other number of the pages.

    Compared in float32, so that bfloat16 is compared with what it rounds.
    """
    tolerance = TOLERANCES[step.qkv.dtype]
    close = {"rtol": tolerance, "atol": tolerance}
    attended, kv = (tensor.cpu() for tensor in step.to(DEVICE).run(kernels, rule))
    expected, expected_kv = step.clean().run(select(torch.device("cpu"), torch.float32), rule)
    torch.testing.assert_close(attended.float(), expected, **close)
    torch.testing.assert_close(kv.float().nan_to_num(nan=0.0), expected_kv, **close)
    same = kv.eq(step.kv) | (kv.isnan() & step.kv.isnan())
    assert (~same.all(-1)).sum() == 2 * step.layout.num_kv_heads * len(step.layout.rows)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_mix_of_chunks_and_single_tokens(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    seed = sum(shape)
    torch.manual_seed(seed)
    rng = random.Random(seed)  # noqa: S311
    spans = [(rng.choice([0, 15, 63, 64, 129, 300]), 1), (rng.choice([1, 62, 200]), 2)]
    spans += [(0, rng.choice([17, 18])), (rng.choice([1, 16, 50]), rng.choice([21, 34]))]
    rng.shuffle(spans)
    step = make_step(spans, shape[:3], dtype, shape[3])
    assert [tiled for _, tiled in launches(kernels, step)] == [True, True]
    check(kernels, step)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_heads_are_normed_before_they_are_rotated(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    torch.manual_seed(7)
    plain = make_step([(20, 1), (0, 5)], shape[:3], dtype, shape[3])
    plain.qkv[:, : -shape[1]].mul_(3)  # queries and keys: a norm that is left out shows
    step = with_norms(plain)
    check(kernels, step)
    _, kv = step.to(DEVICE).run(kernels)
    _, kv_as_it_is = plain.to(DEVICE).run(kernels)
    same = kv.eq(kv_as_it_is) | (kv.isnan() & kv_as_it_is.isnan())
    assert same[:, 1].all(), "values are not normed"
    assert not same[:, 0].all()


def test_pages_that_32_bits_do_not_reach(kernels: Kernels, dtype: torch.dtype) -> None:
    """The first pages are never touched, so that they take no memory."""
    torch.manual_seed(8)
    step = make_step([(40, 1), (0, 3), (200, 1)], (2, 1, 64), dtype).to(DEVICE)
    expected, expected_kv = step.run(kernels)
    first = 2**31 // step.kv[0].numel()
    many = torch.empty((first + len(step.kv), *step.kv.shape[1:]), dtype=dtype, device=DEVICE)
    many[first:] = step.kv
    layout = replace(step.layout, block_tables=step.layout.block_tables + first)
    plan = kernels.plan(layout)
    q = kernels.rotary_store_kv(step.qkv.clone(), step.cos_sin, many, plan)
    assert torch.equal(kernels.paged_attention(q, many, plan), expected)
    assert torch.equal(many[first:].nan_to_num(nan=0.0), expected_kv.nan_to_num(nan=0.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_single_tokens_split(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    torch.manual_seed(1)
    spans = [(start, 1) for start in (0, 64, 410)]
    step = make_step(spans, shape[:3], dtype, shape[3])
    [(num_splits, is_tiled)] = launches(kernels, step)
    assert num_splits > 1 and not is_tiled
    check(kernels, step)


RULES = {
    "window": AttentionRule(window=33),
    "window-beyond-some": AttentionRule(window=130),
    "window-beyond-all": AttentionRule(window=5000),
    "soft-cap": AttentionRule(soft_cap=2.0, scale=0.3),
    "all": AttentionRule(window=70, soft_cap=4.0, scale=0.2),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "spans", [[(0, 1), (64, 1), (410, 1)], [(0, 17), (300, 1), (200, 2), (50, 34)]], ids=str
)
def test_rules(
    kernels: Kernels, dtype: torch.dtype, spans: list[tuple[int, int]], rule: AttentionRule
) -> None:
    """Splits and blocks before every window of a row are not read: they hold NaN."""
    torch.manual_seed(7)
    step = make_step(spans, (6, 2, 64), dtype)
    if rule.window is not None:
        step = step.without_unread(rule.window, 64)
    check(kernels, step, rule)


def test_many_rows_are_not_split(kernels: Kernels, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    num_rows = 17 if DEVICE.type == "cpu" else 1000
    step = make_step([(7 * i % 150, 1) for i in range(num_rows)], (8, 2, 64), dtype)
    assert launches(kernels, step) == [(1, False)]
    check(kernels, step)


def test_a_long_prompt_s_tail_is_split(kernels: Kernels, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    step = make_step([(250, 20)], (2, 1, 64), dtype)
    assert launches(kernels, step)[0][0] > 1
    check(kernels, step)


def test_a_row_is_its_row_among_others(kernels: Kernels, dtype: torch.dtype) -> None:
    """What is promised: the same bits while the number of splits is the same."""
    torch.manual_seed(4)
    step = make_step([(70, 1), (200, 1), (3, 1)], (6, 2, 64), dtype).to(DEVICE)
    together, _ = step.run(kernels)
    layout = step.layout
    for i in range(3):
        # The row three times over, each in pages of its own, as many tiles as before.
        row = replace(
            layout,
            rows=layout.rows[[i, i, i]],
            positions=layout.positions[[i, i, i]],
        )
        alone, _ = Step(
            row, step.qkv[[i, i, i]].clone(), step.cos_sin[[i, i, i]].clone(), step.kv
        ).run(kernels)
        assert torch.equal(alone, together[[i, i, i]])


@pytest.mark.parametrize("rule", [CAUSAL, AttentionRule(window=40)], ids=["all", "window"])
def test_the_plan_of_single_tokens_outlives_their_places(
    kernels: Kernels, dtype: torch.dtype, rule: AttentionRule
) -> None:
    """As in a CUDA graph: planned once, then run on what the same buffers hold later."""
    torch.manual_seed(5)
    steps = [
        make_step(spans, (6, 2, 64), dtype).to(DEVICE)
        for spans in ([(0, 1), (0, 1), (3, 1)], [(290, 1), (17, 1), (64, 1)])
    ]
    width = max(step.layout.block_tables.shape[1] for step in steps)
    buffers = replace(
        steps[0].layout,
        spans=[Span(0, i, 1, 0) for i in range(3)],
        rows=torch.zeros_like(steps[0].layout.rows),
        positions=torch.zeros_like(steps[0].layout.positions),
        block_tables=steps[0].layout.block_tables.new_zeros(3, width),
    )
    plan = kernels.plan(buffers)
    for step in steps:
        buffers.rows.copy_(step.layout.rows)
        buffers.positions.copy_(step.layout.positions)
        table = step.layout.block_tables
        buffers.block_tables[:, : table.shape[1]] = table
        kv = step.kv.clone()
        q = kernels.rotary_store_kv(step.qkv.clone(), step.cos_sin, kv, plan)
        attended = kernels.paged_attention(q, kv, plan, rule)
        expected, expected_kv = step.run(kernels, rule)
        torch.testing.assert_close(attended, expected, rtol=2e-2, atol=2e-2)
        assert torch.equal(kv.nan_to_num(nan=0.0), expected_kv.nan_to_num(nan=0.0))


@pytest.mark.parametrize("num_padding", [1, 20])
def test_padding_reads_and_writes_nothing(
    kernels: Kernels, dtype: torch.dtype, num_padding: int
) -> None:
    torch.manual_seed(6)
    step = make_step([(40, 1), (5, 1)], (8, 2, 64), dtype).to(DEVICE)
    layout = step.layout
    expected, expected_kv = step.run(kernels)
    padding = layout.positions.new_full((num_padding,), -1)
    padded = Step(
        replace(
            layout,
            spans=[*layout.spans, *(Span(0, 2 + i, 1, -1) for i in range(num_padding))],
            rows=torch.cat((layout.rows, torch.zeros_like(padding))),
            positions=torch.cat((layout.positions, padding)),
        ),
        torch.cat((step.qkv, step.qkv[:1].expand(num_padding, -1, -1))),
        torch.cat((step.cos_sin, step.cos_sin[:1].expand(num_padding, -1, -1))),
        step.kv,
    )
    attended, kv = padded.run(kernels)
    torch.testing.assert_close(attended[:2], expected, rtol=2e-2, atol=2e-2)
    assert not attended[2:].any()
    assert torch.equal(kv.nan_to_num(nan=0.0), expected_kv.nan_to_num(nan=0.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_store_kv_is_rotary_store_kv_at_angle_0(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    step = make_step([(40, 1), (0, 18), (5, 1)], shape[:3], dtype, shape[3]).to(DEVICE)
    step.cos_sin[:, 0], step.cos_sin[:, 1] = 1.0, 0.0
    step.layout.positions[-1] = -1  # padding
    plan = kernels.plan(step.layout)
    expected_kv, kv = step.kv.clone(), step.kv.clone()
    expected = kernels.rotary_store_kv(step.qkv.clone(), step.cos_sin, expected_kv, plan)
    assert torch.equal(kernels.store_kv(step.qkv, kv, plan), expected)
    assert torch.equal(kv.nan_to_num(nan=7.0), expected_kv.nan_to_num(nan=7.0))
    assert not torch.equal(kv.nan_to_num(nan=7.0), step.kv.nan_to_num(nan=7.0))


def test_extremes_stay_with_their_rows(kernels: Kernels, dtype: torch.dtype) -> None:
    step = make_step([(3, 2), (40, 1), (0, 30)], (2, 1, 64), dtype).to(DEVICE)
    step.qkv[2, 0, 5] = torch.nan
    attended, _ = step.run(kernels)
    assert attended[2, 0].isnan().all()
    assert attended[2, 1].isfinite().all()
    assert attended[[0, 1, *range(3, 33)]].isfinite().all()
    large = make_step([(300, 1), (0, 40)], (2, 1, 64), dtype).to(DEVICE)
    large.qkv.mul_(1e4)
    assert large.run(kernels)[0].isfinite().all()


@pytest.mark.parametrize("width", [576, 33, 2500])
def test_norms_and_silu(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(width)
    reference = select(DEVICE, torch.float32, "reference")
    tolerance = TOLERANCES[dtype]
    close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    x, residual = torch.randn(2, 5, width, device=DEVICE).to(dtype)
    weight = torch.randn(width, device=DEVICE).to(dtype)
    gate_up = 5 * torch.randn(5, 2 * width, device=DEVICE).to(dtype)
    expected = reference.rms_norm(x.float(), weight.float(), 1e-5)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5), expected, **close)
    torch.testing.assert_close(kernels.rms_norm(x, weight.float(), 1e-5), expected, **close)
    sums = reference.add_rms_norm(x.float(), residual.float().clone(), weight.float(), 1e-5)
    added = kernels.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
    torch.testing.assert_close(added, sums, **close)
    gated = reference.silu_mul(gate_up.float())
    torch.testing.assert_close(kernels.silu_mul(gate_up), gated, **close)
    # Heads within a row of others, as a model's query and key norms have them.
    heads = torch.randn(37, 7, width, device=DEVICE).to(dtype)[:, 2:6]
    expected = reference.rms_norm(heads.float(), weight.float(), 1e-5)
    torch.testing.assert_close(kernels.rms_norm(heads, weight, 1e-5), expected, **close)


@pytest.mark.parametrize("width", [576, 33, 2500])
def test_layer_norm_and_gelu(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(width)
    reference = select(DEVICE, torch.float32, "reference")
    tolerance = TOLERANCES[dtype]
    close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    x, residual = torch.randn(2, 5, width, device=DEVICE).add_(1).to(dtype)
    weight, bias = torch.randn(2, width, device=DEVICE).to(dtype)
    sums = reference.add_layer_norm(
        x.float(), residual.float().clone(), weight.float(), bias.float(), 1e-5
    )
    added = kernels.add_layer_norm(x.clone(), residual.clone(), weight, bias, 1e-5)
    torch.testing.assert_close(added, sums, **close)
    gate_up = 3 * torch.randn(5, 2 * width, device=DEVICE).to(dtype)
    torch.testing.assert_close(kernels.gelu(gate_up), reference.gelu(gate_up.float()), **close)
    gated = reference.gelu_mul(gate_up.float())
    torch.testing.assert_close(kernels.gelu_mul(gate_up), gated, **close)
    extremes = torch.tensor([[0.0, -0.0, 200.0, -200.0, torch.inf, torch.nan, 1e30]], dtype=dtype)
    expected = torch.tensor([[0.0, 0.0, 200.0, 0.0, torch.inf, torch.nan, 1e30]], dtype=dtype)
    found = kernels.gelu(extremes.to(DEVICE)).cpu()
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-30, equal_nan=True)


def test_silu_of_extremes(kernels: Kernels, dtype: torch.dtype) -> None:
    gate = torch.tensor([0.0, -0.0, 200.0, -200.0, torch.inf, torch.nan, 1e30], dtype=dtype)
    gate_up = torch.cat((gate, torch.ones_like(gate)))[None].to(DEVICE)
    expected = torch.tensor([0.0, 0.0, 200.0, 0.0, torch.inf, torch.nan, 1e30], dtype=dtype)
    gated = kernels.silu_mul(gate_up)[0].cpu()
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(gated, expected, rtol=tolerance, atol=1e-30, equal_nan=True)
