import math

import pytest
import torch

from engine.request import TokenLogprobs
from engine.sampler import prompt_logprobs
from engine.sampler.logprobs import compute_logprobs, to_entries


def random_logits(num_rows: int, vocab_size: int) -> torch.Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(3)) * 4


def test_they_are_the_log_softmax_of_the_raw_logits() -> None:
    logits = random_logits(5, 700)
    targets = [0, 699, 5, 5, 350]
    expected = torch.log_softmax(logits.double(), dim=-1)
    entries = prompt_logprobs(logits, targets, 3)
    for row, (target, entry) in enumerate(zip(targets, entries, strict=True)):
        assert entry.logprob == pytest.approx(expected[row, target].item(), abs=1e-5)
        top, top_ids = expected[row].topk(3)
        assert entry.top_token_ids == top_ids.tolist()
        assert entry.top_logprobs == pytest.approx(top.tolist(), abs=1e-5)


def rank_of(target: int, logits: list[float]) -> int:
    """One more than there are better tokens, of log-probabilities in float64 and clamped."""
    best = max(logits)
    log_sum = best + math.log(sum(math.exp(value - best) for value in logits))
    logprobs = [max(value - log_sum, -9999.0) for value in logits]
    return 1 + sum(value > logprobs[target] for value in logprobs)


@pytest.mark.parametrize("step", [0.0, 0.5, 4.0])
def test_ranks_count_the_better_tokens(step: float) -> None:
    logits = random_logits(40, 300)
    if step:  # many equals, which share the better rank
        logits = (logits / step).round() * step
    logits[:, 7::19] = -math.inf
    logits[::2, 3::19] = -20_000.0  # as good as -inf: both are clamped
    targets = [(17 * row) % 300 for row in range(36)] + [3, 7, 7 + 19, 3 + 38]
    expected = [rank_of(target, row) for target, row in zip(targets, logits.tolist(), strict=True)]
    for num_top in (0, 4):
        entries = prompt_logprobs(logits, targets, num_top)
        assert [entry.rank for entry in entries] == expected
    sampled = to_entries(compute_logprobs(logits, torch.tensor(targets), 1), [0] * 40)
    assert [entry.rank for entry in sampled] == expected


def test_ranks_of_equals_and_of_clamped_tokens() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, -math.inf, 1.0, -20_000.0, 0.0]]).expand(7, -1)
    ranks = [entry.rank for entry in prompt_logprobs(logits, list(range(7)), 0)]
    assert ranks == [3, 1, 1, 6, 3, 6, 5]


def test_equal_alternatives_are_listed_by_id() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 0.0, 2.0]])
    (entry,) = prompt_logprobs(logits, [4], 4)
    assert entry.top_token_ids == [1, 3, 5, 0]
    assert entry.top_logprobs == sorted(entry.top_logprobs, reverse=True)


def test_the_target_among_the_best_has_the_same_number() -> None:
    logits = random_logits(20, 300)
    targets = logits.argmax(dim=-1).tolist()
    for target, entry in zip(targets, prompt_logprobs(logits, targets, 1), strict=True):
        assert (entry.top_token_ids, entry.top_logprobs) == ([target], [entry.logprob])


def test_nothing_is_below_the_least_logprob() -> None:
    logits = torch.tensor([[0.0, -math.inf, -1e30, -math.inf]])
    (entry,) = prompt_logprobs(logits, [1], 4)
    assert entry == TokenLogprobs(-9999.0, 2, [0, 1, 2, 3], [0.0, -9999.0, -9999.0, -9999.0])
    # JSON would show it as -0.0.
    assert math.copysign(1, entry.top_logprobs[0]) == 1


def test_no_alternatives_and_more_than_there_are_tokens() -> None:
    logits = random_logits(1, 4)
    assert prompt_logprobs(logits, [2], 0)[0].top_token_ids == []
    assert prompt_logprobs(logits, [2], 0)[0].top_logprobs == []
    assert sorted(prompt_logprobs(logits, [2], 20)[0].top_token_ids) == [0, 1, 2, 3]
    assert prompt_logprobs(logits[:0], [], 3) == []


def test_nan_never_leaves() -> None:
    logits = torch.tensor([[0.0, math.nan], [math.inf, 0.0], [0.0, 0.0]])
    entries = prompt_logprobs(logits, [0, 0, 0], 2)
    for entry in entries:
        assert all(math.isfinite(value) for value in [entry.logprob, *entry.top_logprobs])
    assert entries[2].logprob == pytest.approx(math.log(0.5))


def test_a_long_prompt_is_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(50, 100)
    targets = list(range(50))
    at_once = prompt_logprobs(logits, targets, 2)
    monkeypatch.setattr("engine.sampler.logprobs._MAX_ELEMENTS", 700)
    assert prompt_logprobs(logits, targets, 2) == at_once


def test_rows_may_want_fewer_alternatives_than_were_computed() -> None:
    logits = random_logits(3, 50)
    token_ids = torch.tensor([1, 2, 3])
    entries = to_entries(compute_logprobs(logits, token_ids, 5), [0, 5, 2])
    assert [len(entry.top_token_ids) for entry in entries] == [0, 5, 2]
    assert entries[2] == prompt_logprobs(logits[2:], [3], 2)[0]
    assert not compute_logprobs(logits, token_ids, 5).chosen.isnan().any()
