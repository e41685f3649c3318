import math

import torch

from engine.sampler.ranking import best_tokens
from engine.sampler.stages import (
    BAD_WORD,
    TOO_EARLY,
    add_bias,
    apply_min_p,
    forbid,
    penalize,
    restrict,
    spare,
    temper,
    weights,
)

INF = math.inf


def penalize_row(
    logits: list[float],
    output: list[int],
    prompt: list[bool],
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> list[float]:
    counts = torch.tensor([output], dtype=torch.int32)
    columns = [torch.tensor([[value]]) for value in (repetition, presence, frequency)]
    in_prompt = torch.tensor([prompt])
    result = penalize(torch.tensor([logits]), counts, in_prompt, *columns)
    return [float(value) for value in result[0].tolist()]


def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_output() -> None:
    logits = [4.0, -4.0, 4.0, -4.0, 4.0, -4.0, -INF]
    output = [1, 3, 0, 0, 0, 0, 1]
    prompt = [False, False, True, True, False, False, True]
    expected = [2.0, -8.0, 2.0, -8.0, 4.0, -4.0, -INF]
    assert penalize_row(logits, output, prompt, repetition=2.0) == expected


def test_presence_and_frequency_are_subtracted_for_the_output_alone() -> None:
    logits, output, prompt = [1.0, 1.0, 1.0], [0, 1, 3], [True, False, True]
    assert penalize_row(logits, output, prompt, presence=0.5) == [1.0, 0.5, 0.5]
    assert penalize_row(logits, output, prompt, frequency=0.5) == [1.0, 0.5, -0.5]
    assert penalize_row(logits, output, prompt, presence=-1.0, frequency=0.25) == [1.0, 1.75, 1.25]


def test_neutral_penalties_change_no_bit() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))[0].tolist()
    assert penalize_row(logits, [2] * 500, [True] * 500) == logits


def test_bias_touches_only_its_tokens() -> None:
    logits = torch.zeros(2, 4)
    add_bias(logits, torch.tensor([1, 4 + 3]), torch.tensor([2.0, -100.0]))
    assert logits.tolist() == [[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, -100.0]]


def test_restrict_leaves_the_allowed_tokens_of_its_rows() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, -INF, 3.0]])
    restrict(logits, torch.tensor([0, 2]), torch.tensor([0, 2, 6 + 1]))
    assert logits.tolist() == [[1.0, -INF, 3.0], [1.0, 2.0, 3.0], [-INF, BAD_WORD, -INF]]


def test_forbid_lowers_to_the_lowest_level_of_a_token() -> None:
    logits = torch.tensor([[0.0, -INF, 2.0], [3.0, 4.0, 5.0]])
    levels = torch.tensor([INF, BAD_WORD, BAD_WORD, TOO_EARLY, INF, INF])
    forbid(logits, torch.tensor([0, 1, 3 + 2, 3 + 2, 3 + 2, 3 + 1]), levels)
    assert logits.tolist() == [[0.0, -INF, 2.0], [3.0, 4.0, BAD_WORD]]
    assert -INF < BAD_WORD < TOO_EARLY < -1e38


def test_spare_lifts_the_words_with_a_token_that_did_not_match() -> None:
    levels = torch.full((4,), BAD_WORD)
    words = torch.tensor([1, 1, 2, 2, 3])
    spare(levels, words, torch.tensor([False, True, False, False, True]))
    assert levels.tolist() == [BAD_WORD, INF, BAD_WORD, INF]


def test_temper_measures_from_the_best_token() -> None:
    logits = torch.tensor([[1.0, 3.0, -INF], [-2.0, -2.0, -3.0]])
    drops = temper(logits, torch.tensor([[2.0], [0.5]]))
    assert drops.tolist() == [[1.0, 0.0, INF], [0.0, 0.0, 2.0]]


def test_temper_has_no_nan_for_extreme_rows() -> None:
    biggest = torch.finfo(torch.float32).max
    logits = torch.tensor([[-INF, -INF], [biggest, -biggest], [1e30, 1e30 * 0.99]])
    drops = temper(logits, torch.full((3, 1), 1e-5))
    assert drops.tolist() == [[INF, INF], [0.0, INF], [0.0, drops[2, 1].item()]]
    assert drops[2, 1] > 1e33


def test_min_p_keeps_what_has_that_share_of_the_best_probability() -> None:
    probabilities = torch.tensor([[0.5, 0.26, 0.2, 0.04]])
    drops = temper(probabilities.log(), torch.ones(1, 1))
    apply_min_p(drops, torch.tensor([[-math.log(0.45)]]))
    assert (drops < INF).tolist() == [[True, True, False, False]]


def test_weights_are_relative_probabilities_and_add_up_in_any_order() -> None:
    drops = torch.rand(3, 5000, generator=torch.Generator().manual_seed(1)) * 20
    exact = weights(drops)
    torch.testing.assert_close(
        exact.double() / 2.0**40, torch.exp(-drops.double()), rtol=0, atol=1e-6
    )
    assert torch.equal(exact.sum(dim=-1), exact.flip(-1).cumsum(dim=-1)[:, -1])
    assert weights(torch.tensor([[0.0, INF]])).tolist() == [[1 << 40, 0]]


def test_best_tokens_are_ranked_by_drop_and_then_by_id() -> None:
    generator = torch.Generator().manual_seed(2)
    drops = torch.randint(0, 40, (3, 1000), generator=generator) / 8.0  # many equals
    drops[1, 10:] = INF
    for width in (1, 7, 100, 1000):
        best, token_ids = best_tokens(drops, width)
        for row in range(3):
            values = drops[row].tolist()
            ranked = sorted(range(1000), key=lambda i: (values[i], i))[:width]
            assert token_ids[row].tolist() == ranked
            assert best[row].tolist() == [values[i] for i in ranked]


def test_no_drop_is_minus_zero() -> None:
    """It would rank before the other zeros, whatever the ids."""
    for row in ([-0.0, 0.0], [0.0, -0.0]):
        logits = torch.tensor([row * 20])
        drops = temper(logits, torch.tensor([[1.0]]))
        assert not drops.signbit().any()
        _, token_ids = best_tokens(drops, 40)
        assert token_ids[0].tolist() == list(range(40))
