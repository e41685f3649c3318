"""Every set of kernels against the plainest formulas, on random ragged batches."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from attention_step import lay_back, lay_out, make_step, with_norms
from ragged_layout import contexts, ragged_layout
from torch import Tensor

from engine.attention import CAUSAL, AttentionRule, Span
from engine.kernels import paged, select
from engine.kernels.base import Kernels
from engine.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")


@pytest.fixture(params=["reference", "auto"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return select(CPU, torch.float32, request.param)


def dense_attention(
    q: Tensor, keys: Tensor, values: Tensor, rule: AttentionRule = CAUSAL
) -> Tensor:
    """q [tokens, heads, dim] are the last positions of keys and values [kv_heads, context, dim]."""
    num_tokens, heads, dim = q.shape
    context = keys.shape[1]
    keys = keys.repeat_interleave(heads // keys.shape[0], dim=0)
    values = values.repeat_interleave(heads // values.shape[0], dim=0)
    scale = 1 / math.sqrt(dim) if rule.scale is None else rule.scale
    scores = torch.einsum("thd,hcd->htc", q, keys) * scale
    if rule.soft_cap is not None:
        scores = rule.soft_cap * (scores / rule.soft_cap).tanh()
    unseen = torch.ones(num_tokens, context).triu(context - num_tokens + 1).bool()
    if rule.window is not None:
        unseen |= torch.ones(num_tokens, context).tril(context - num_tokens - rule.window).bool()
    weights = scores.masked_fill(unseen, -math.inf).softmax(-1)
    return torch.einsum("htc,hcd->thd", weights, values)


@pytest.mark.parametrize("seed", range(12))
def test_paged_attention(kernels: Kernels, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    torch.manual_seed(seed)
    kv_heads, group = rng.choice([(1, 1), (1, 5), (2, 1), (2, 3), (3, 4)])
    # Kernels may take in 16 positions at once; the reference takes pages of any size.
    sizes = [1, 4, 16, 64] if isinstance(kernels, ReferenceKernels) else [16, 48, 64]
    block_size, head_dim = rng.choice(sizes), rng.choice([8, 32])
    lengths = [1, 1, 1, 2, 3, 5, 31, 256, 280]
    spans = [
        (rng.choice([0, 1, 7, 129, 254, 255, 256, 300, 600]), rng.choice(lengths))
        for _ in range(rng.randint(1, 7))
    ]
    heads = kv_heads * group
    layout, num_blocks = ragged_layout(spans, heads, kv_heads, head_dim, block_size)
    kv = torch.randn(num_blocks + 1, 2, kv_heads, block_size, head_dim)
    kv[-1] = 0
    q = torch.randn(sum(n for _, n in spans), heads, head_dim)
    actual = kernels.paged_attention(q, lay_out(kv, kernels), kernels.plan(layout))
    for span, (keys, values) in zip(layout.spans, contexts(layout, kv), strict=True):
        tokens = slice(span.first_token, span.first_token + span.num_tokens)
        expected = dense_attention(q[tokens], keys, values)
        torch.testing.assert_close(actual[tokens], expected, rtol=1e-4, atol=1e-5)


RULES = {
    "window": AttentionRule(window=40),
    "window-of-one": AttentionRule(window=1),
    "window-of-pages": AttentionRule(window=256),
    "window-beyond-some": AttentionRule(window=301),
    "window-beyond-all": AttentionRule(window=5000),
    "soft-cap": AttentionRule(soft_cap=2.0),
    "scale": AttentionRule(scale=0.3),
    "all": AttentionRule(window=100, soft_cap=1.5, scale=1.0),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("shape", [(6, 2, 32, 16), (5, 1, 24, 64)])
def test_attention_rules(
    kernels: Kernels, rule: AttentionRule, shape: tuple[int, int, int, int]
) -> None:
    torch.manual_seed(1)
    heads, kv_heads, head_dim, block_size = shape
    singles = [(0, 1), (39, 1), (40, 1), (300, 1), (301, 1), (555, 1), (816, 1)]
    spans = [*singles, (0, 2), (38, 5), (0, 300), (250, 33), (511, 280), (900, 1)]
    layout, num_blocks = ragged_layout(spans, heads, kv_heads, head_dim, block_size)
    kv = torch.randn(num_blocks + 1, 2, kv_heads, block_size, head_dim)
    kv[-1] = 0
    q = torch.randn(sum(n for _, n in spans), heads, head_dim)
    plan = kernels.plan(layout)
    pages = lay_out(kv, kernels)
    plain = kernels.paged_attention(q, pages, plan).clone()
    actual = kernels.paged_attention(q, pages, plan, rule).clone()
    for span, (keys, values) in zip(layout.spans, contexts(layout, kv), strict=True):
        tokens = slice(span.first_token, span.first_token + span.num_tokens)
        expected = dense_attention(q[tokens], keys, values, rule)
        torch.testing.assert_close(actual[tokens], expected, rtol=1e-4, atol=1e-5)
    # Layers with other rules share the plan.
    assert torch.equal(kernels.paged_attention(q, pages, plan), plain)
    if rule.window == 5000:
        assert torch.equal(actual, plain)


@pytest.mark.parametrize("seed", range(6))
def test_windows_of_random_batches(kernels: Kernels, seed: int) -> None:
    rng = random.Random(100 + seed)  # noqa: S311
    torch.manual_seed(seed)
    lengths = [1, 1, 1, 2, 7, 31, 256, 280]
    spans = [(rng.randrange(700), rng.choice(lengths)) for _ in range(rng.randint(1, 8))]
    layout, num_blocks = ragged_layout(spans, 6, 2, 16, 16)
    kv = torch.randn(num_blocks + 1, 2, 2, 16, 16)
    q = torch.randn(sum(n for _, n in spans), 6, 16)
    plan = kernels.plan(layout)
    for window in (rng.randrange(1, 30), rng.randrange(30, 300), rng.randrange(300, 900)):
        rule = AttentionRule(window, rng.choice([None, 5.0]))
        actual = kernels.paged_attention(q, lay_out(kv, kernels), plan, rule)
        for span, (keys, values) in zip(layout.spans, contexts(layout, kv), strict=True):
            tokens = slice(span.first_token, span.first_token + span.num_tokens)
            expected = dense_attention(q[tokens], keys, values, rule)
            torch.testing.assert_close(actual[tokens], expected, rtol=1e-4, atol=1e-5)


def test_windows_and_chunks_change_no_bit(kernels: Kernels) -> None:
    """However a prompt is cut and whatever is beside it: a window hides, it does not round."""
    torch.manual_seed(3)
    rule = AttentionRule(window=90, soft_cap=3.0)
    layout, num_blocks = ragged_layout([(0, 600)], 6, 2, 32, 16)
    kv = torch.randn(num_blocks + 1, 2, 2, 16, 32)
    q = torch.randn(600, 6, 32)
    whole = kernels.paged_attention(q, kv, kernels.plan(layout), rule).clone()
    for length in (1, 5, 64, 100, 257):
        for start in range(0, 600 - length, 71):
            tokens = slice(start, start + length)
            chunk = replace(
                layout,
                spans=[Span(0, 0, length, start)],
                rows=layout.rows[tokens].clone(),
                positions=layout.positions[tokens].clone(),
            )
            part = kernels.paged_attention(q[tokens], kv, kernels.plan(chunk), rule)
            assert torch.equal(part, whole[tokens]), (start, length)


@pytest.mark.parametrize("shape", [(5, 1, 8), (4, 2, 8)], ids=str)
def test_how_much_the_reference_gathers_at_once_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(4)
    layout, num_blocks = ragged_layout([(1500, 1), (700, 1), (0, 1), (2600, 1)], *shape, 16)
    kv = torch.randn(num_blocks + 1, 2, shape[1], 16, shape[2])
    q = torch.randn(4, shape[0], shape[2])
    kernels = select(CPU, torch.float32, "reference")
    attended = []
    for count in (1000, 12, 1):
        monkeypatch.setattr(paged, "_CHUNKS_AT_ONCE", count)
        plan = kernels.plan(layout)
        attended.append(kernels.paged_attention(q, kv, plan))
        assert isinstance(plan, paged.PagedPlan)
        singles = plan.reading(None).singles
        assert singles is not None and len(singles.parts) == {1000: 1, 12: 2, 1: 11}[count]
    assert torch.equal(attended[0], attended[1])
    assert torch.equal(attended[0], attended[2])


def test_large_scores_do_not_overflow(kernels: Kernels) -> None:
    layout, num_blocks = ragged_layout([(299, 1), (0, 300)], 2, 1, 8, 16)
    kv = torch.randn(num_blocks + 1, 2, 1, 16, 8) * 100
    q = torch.randn(301, 2, 8) * 100
    assert kernels.paged_attention(q, kv, kernels.plan(layout)).isfinite().all()


def test_rotary_store_kv(kernels: Kernels) -> None:
    heads, kv_heads, dim = 4, 2, 8
    layout, num_blocks = ragged_layout([(5, 1), (0, 9), (30, 3)], heads, kv_heads, dim, 16)
    kv = torch.zeros(num_blocks + 1, 2, kv_heads, 16, dim)
    qkv = torch.randn(13, heads + 2 * kv_heads, dim)
    angles = torch.randn(13, dim // 2)
    cos, sin = angles.cos(), angles.sin()
    table = torch.cat((cos, cos, -sin, sin), -1).view(13, 2, dim)
    expected = qkv.clone()
    # As complex numbers: the first half real, the second imaginary, turned by the angle.
    first, second = qkv[:, : heads + kv_heads].chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)[:, None]
    expected[:, : heads + kv_heads] = torch.cat((turned.real, turned.imag), dim=-1)
    q = kernels.rotary_store_kv(qkv, table, kv, kernels.plan(layout))
    torch.testing.assert_close(q, expected[:, :heads])
    pages = lay_back(kv, kernels)
    for span, stored in zip(layout.spans, contexts(layout, pages), strict=True):
        tokens = slice(span.first_token, span.first_token + span.num_tokens)
        written = expected[tokens, heads:].view(-1, 2, kv_heads, dim).permute(1, 2, 0, 3)
        torch.testing.assert_close(stored[:, :, span.start :], written)
        assert not stored[:, :, : span.start].any()


def test_heads_are_normed_before_they_are_rotated(kernels: Kernels) -> None:
    torch.manual_seed(3)
    step = with_norms(make_step([(5, 1), (0, 9)], (4, 2, 8), torch.float32))
    step.qkv.mul_(3)
    norms = step.norms
    assert norms is not None
    normed = step.qkv.clone()
    for heads, weight in ((slice(0, 4), norms.q), (slice(4, 6), norms.k)):
        x = step.qkv[:, heads]
        normed[:, heads] = x / (x.square().mean(-1, keepdim=True) + norms.eps).sqrt() * weight
    expected = replace(step, qkv=normed, norms=None).clean().run(kernels)
    for found, wanted in zip(step.clean().run(kernels), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["reference", "auto"])
def test_store_kv_is_rotary_store_kv_at_angle_0(name: str, dtype: torch.dtype) -> None:
    kernels = select(CPU, dtype, name)
    step = make_step([(5, 1), (0, 40), (30, 3)], (4, 2, 24), dtype)
    step.cos_sin[:, 0], step.cos_sin[:, 1] = 1.0, 0.0
    plan = kernels.plan(step.layout)
    expected_kv, kv = lay_out(step.kv, kernels), lay_out(step.kv, kernels)
    expected = kernels.rotary_store_kv(step.qkv.clone(), step.cos_sin, expected_kv, plan)
    qkv = step.qkv.clone()
    q = kernels.store_kv(qkv, kv, plan)
    assert torch.equal(q, expected) and torch.equal(qkv, step.qkv)
    assert torch.equal(kv.nan_to_num(nan=7.0), expected_kv.nan_to_num(nan=7.0))
    assert not torch.equal(kv.nan_to_num(nan=7.0), lay_out(step.kv, kernels).nan_to_num(nan=7.0))


def test_norms_and_silu(kernels: Kernels) -> None:
    x, residual, weight = torch.randn(5, 48), torch.randn(5, 48), torch.randn(48)
    total = x + residual
    expected = total / (total.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(kernels.rms_norm(total.clone(), weight, 1e-5), expected)
    normed, new_residual = kernels.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(new_residual, total)
    gate_up = torch.randn(5, 66)
    gate, up = gate_up[:, :33], gate_up[:, 33:]
    torch.testing.assert_close(kernels.silu_mul(gate_up.clone()), gate * gate.sigmoid() * up)


def test_layer_norm_and_gelu(kernels: Kernels) -> None:
    x, residual, weight, bias = (torch.randn(size) for size in ((5, 45), (5, 45), (45,), (45,)))
    residual += 3  # a mean to subtract
    total = x + residual
    centred = total - total.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias
    normed, new_residual = kernels.add_layer_norm(x.clone(), residual.clone(), weight, bias, 1e-5)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(new_residual, total)
    gate_up = 3 * torch.randn(5, 66)
    cubic = math.sqrt(2 / math.pi) * (gate_up + 0.044715 * gate_up**3)
    expected = gate_up * (1 + cubic.tanh()) / 2
    torch.testing.assert_close(kernels.gelu(gate_up.clone()), expected, rtol=1e-5, atol=1e-6)
    gated = kernels.gelu_mul(gate_up.clone())
    torch.testing.assert_close(gated, expected[:, :33] * gate_up[:, 33:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "outputs"), [(576, 960), (1536, 576), (64, 33)])
def test_linear_rows_do_not_depend_on_their_number(
    dtype: torch.dtype, width: int, outputs: int
) -> None:
    weight, bias = torch.randn(outputs, width).to(dtype), torch.randn(outputs).to(dtype)
    linear = select(CPU, dtype).pack_linear(weight, bias)
    x = torch.randn(70, width).to(dtype)
    expected = linear(x)
    plain = x.double() @ weight.double().T + bias.double()
    assert (expected - plain).abs().max() <= 16 * plain.abs().max() * torch.finfo(dtype).eps
    for num_rows in (1, 2, 3, 16, 33, 70):
        assert torch.equal(linear(x[:num_rows]), expected[:num_rows])
