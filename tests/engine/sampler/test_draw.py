import math

import numpy as np
import pytest
import torch

from engine.sampler.draw import DrawInputs, draw_from_all, draw_from_best, draw_from_nucleus
from engine.sampler.gumbel import choice_stream, noise_keys

VOCAB = 2000
TOKEN_IDS = torch.arange(VOCAB, dtype=torch.int32)[None]


def make_inputs(
    num_rows: int,
    temperature: float = 1.0,
    min_p: float = 0.0,
    top_k: int = VOCAB,
    top_p: float = 1.0,
    seed: int = 0,
) -> DrawInputs:
    streams = np.full(num_rows, choice_stream(seed, 0), dtype=np.uint64)
    return DrawInputs(
        temperature=torch.full((num_rows, 1), temperature),
        max_drop=torch.full((num_rows, 1), -math.log(min_p)) if min_p else None,
        top_k=torch.full((num_rows, 1), top_k),
        top_p=torch.full((num_rows, 1), top_p),
        keys=torch.from_numpy(noise_keys(streams, np.arange(num_rows))),
    )


def make_logits(num_rows: int, scale: float, step: float = 0.0) -> torch.Tensor:
    """Normal logits; with a `step`, rounded to its multiples, so that many are equal."""
    logits = torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(5)) * scale
    return (logits / step).round() * step if step else logits


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize(("scale", "min_p"), [(0.1, 0.0), (2.0, 0.0), (2.0, 0.02)])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.9, 0.999, 1.0])
def test_the_nucleus_without_sorting_is_the_sorted_nucleus(
    top_p: float, min_p: float, scale: float, step: float
) -> None:
    logits = make_logits(20, scale, step)
    inputs = make_inputs(20, temperature=0.8, min_p=min_p, top_p=top_p)
    by_sorting = draw_from_best(logits, inputs, VOCAB)
    assert torch.equal(draw_from_nucleus(logits, inputs, TOKEN_IDS), by_sorting)
    if top_p == 1.0:
        assert torch.equal(draw_from_all(logits, inputs, TOKEN_IDS), by_sorting)


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [2, 40, 128])
def test_the_width_changes_nothing(top_k: int, top_p: float, step: float) -> None:
    logits = make_logits(20, 2.0, step)
    inputs = make_inputs(20, min_p=0.01, top_k=top_k, top_p=top_p)
    narrow = draw_from_best(logits, inputs, 128)
    assert torch.equal(narrow, draw_from_best(logits, inputs, 1024))
    assert torch.equal(narrow, draw_from_best(logits, inputs, VOCAB))


def test_rows_that_leave_nothing_give_token_0() -> None:
    logits = torch.full((2, VOCAB), -torch.inf)
    for top_p in (0.5, 1.0):
        inputs = make_inputs(2, top_p=top_p, min_p=0.1)
        assert draw_from_all(logits, inputs, TOKEN_IDS).tolist() == [0, 0]
        assert draw_from_nucleus(logits, inputs, TOKEN_IDS).tolist() == [0, 0]
        assert draw_from_best(logits, inputs, VOCAB).tolist() == [0, 0]
        assert draw_from_best(logits, make_inputs(2, top_k=5), 128).tolist() == [0, 0]


def test_invalid_rows_end_and_leave_the_others_alone() -> None:
    logits = make_logits(4, 1.0)
    inputs = make_inputs(4, top_p=0.8)
    expected = draw_from_nucleus(logits, inputs, TOKEN_IDS)
    spoiled = logits.clone()
    spoiled[1, 7] = torch.nan
    spoiled[2, 9] = torch.inf
    others = [0, 3]
    assert torch.equal(draw_from_nucleus(spoiled, inputs, TOKEN_IDS)[others], expected[others])
    assert torch.equal(draw_from_best(spoiled, inputs, VOCAB)[others], expected[others])


def reference_distribution(
    logits: torch.Tensor, temperature: float, min_p: float, top_k: int, top_p: float
) -> torch.Tensor:
    """Probabilities after temperature, min_p, top_k and top_p, in that order, in float64."""
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    probabilities[probabilities < min_p * probabilities.max()] = 0
    order = probabilities.argsort(descending=True, stable=True)
    probabilities[order[top_k:]] = 0
    probabilities /= probabilities.sum()
    before = probabilities[order].cumsum(0) - probabilities[order]
    probabilities[order[before >= top_p]] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    ("temperature", "min_p", "top_k", "top_p"),
    [
        (1.0, 0.0, 40, 1.0),
        (0.6, 0.0, 40, 1.0),
        (2.0, 0.1, 40, 1.0),
        (1.0, 0.0, 8, 1.0),
        (1.0, 0.0, 40, 0.7),
        (1.5, 0.02, 20, 0.8),
    ],
)
def test_tokens_are_drawn_as_often_as_softmax_says(
    temperature: float, min_p: float, top_k: int, top_p: float
) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(8)) * 1.5
    probabilities = reference_distribution(logits, temperature, min_p, top_k, top_p)
    num_draws = 20_000
    rows = logits.expand(num_draws, 40).contiguous()
    inputs = make_inputs(num_draws, temperature, min_p, top_k, top_p, seed=77)
    token_ids = torch.arange(40, dtype=torch.int32)[None]
    draws = [draw_from_best(rows, inputs, 40)]
    if top_k == 40:
        draws.append(draw_from_nucleus(rows, inputs, token_ids))
    if top_k == 40 and top_p == 1.0:
        draws.append(draw_from_all(rows, inputs, token_ids))
    for drawn in draws:
        counts = torch.bincount(drawn, minlength=40).double()
        assert (counts[probabilities == 0] == 0).all()
        likely = probabilities * num_draws >= 5
        expected = probabilities[likely] * num_draws
        chi_square = ((counts[likely] - expected) ** 2 / expected).sum().item()
        freedom = int(likely.sum()) - 1
        # Mean `freedom`, deviation sqrt(2 * freedom): five deviations.
        assert chi_square < freedom + 5 * math.sqrt(2 * freedom)
