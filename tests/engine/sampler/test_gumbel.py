import numpy as np
import pytest
import torch

from engine.sampler.gumbel import choice_stream, hash_token_ids, log_exponential, noise_keys


def keys_for(seed: int, index: int, positions: range) -> torch.Tensor:
    streams = np.full(len(positions), choice_stream(seed, index), dtype=np.uint64)
    return torch.from_numpy(noise_keys(streams, np.array(positions)))


def noise(seed: int, index: int, positions: range, num_tokens: int) -> torch.Tensor:
    token_ids = torch.arange(num_tokens, dtype=torch.int32)[None]
    return log_exponential(token_ids, keys_for(seed, index, positions))


def hash_of(token_id: int, low: int, high: int) -> int:
    """The documented formula, in Python's unbounded integers."""
    wrap = 0xFFFFFFFF
    x = ((token_id ^ low) * 0x9E3779B1 + high) & wrap
    x = (x ^ x >> 16) * 0x7FEB352D & wrap
    x = (x ^ x >> 15) * 0x846CA68B & wrap
    return x ^ x >> 16


def test_streams_and_keys_are_pinned() -> None:
    # Another value here changes what every seeded request has ever drawn.
    assert choice_stream(0, 0) == 0xA706DD2F4D197E6F
    assert choice_stream(1234, 5) == 0xE5EBBF6FA24AFA08
    assert choice_stream(-1, 0) == 0x5DC20AA7B2A27137
    assert keys_for(1234, 5, range(7, 9)).tolist() == [
        [-163825617, -1072111975],
        [1979908111, 773976772],
    ]


def test_hash_is_pinned() -> None:
    token_ids = torch.tensor([[0, 1, 2, 49151, 2**31 - 1]], dtype=torch.int32)
    keys = torch.tensor([[0, 0], [-1, 123456789]], dtype=torch.int32)
    assert hash_token_ids(token_ids, keys).tolist() == [
        [0, 1834104592, -1405825555, -373299474, -35224549],
        [-551449025, -495719284, 498550860, 157016007, -991686714],
    ]


def test_hash_is_the_documented_formula() -> None:
    token_ids = torch.arange(0, 200_000, 997, dtype=torch.int32)[None]
    keys = keys_for(99, 0, range(5))
    low_high = keys.to(torch.int64) & 0xFFFFFFFF
    expected = [[hash_of(i, *key) for i in token_ids[0].tolist()] for key in low_high.tolist()]
    assert (hash_token_ids(token_ids, keys).to(torch.int64) & 0xFFFFFFFF).tolist() == expected


def test_noise_is_the_documented_formula() -> None:
    keys = keys_for(3, 1, range(4))
    token_ids = torch.arange(5000, dtype=torch.int32)[None]
    m = (hash_token_ids(token_ids, keys) & 0x7FFFFFFF).to(torch.float64)
    expected = torch.log(-torch.log1p(-(m + 0.5) * 2.0**-31))
    values = log_exponential(token_ids, keys).to(torch.float64)
    # float32 cannot tell a large m from its neighbours; the noise that wins comes from small ones.
    small = m < 2**30
    torch.testing.assert_close(values[small], expected[small], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values[~small], expected[~small], rtol=0, atol=1e-3)


def test_noise_is_finite_at_both_ends_of_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = torch.tensor([[0, 1, 2**31 - 1, -(2**31), -1]], dtype=torch.int32)
    monkeypatch.setattr("engine.sampler.gumbel.hash_token_ids", lambda ids, keys: ends.clone())
    values = log_exponential(ends, torch.zeros(1, 2, dtype=torch.int32))
    assert values.isfinite().all()
    assert values.min() == pytest.approx(-22.18, abs=0.01)
    assert values.max() == pytest.approx(2.81, abs=0.01)


def test_each_token_has_the_same_noise_in_any_company() -> None:
    whole = noise(11, 0, range(20), 3000)
    token_ids = torch.tensor([[2999, 5, 17]], dtype=torch.int32)
    few = log_exponential(token_ids, keys_for(11, 0, range(13, 14)))
    assert torch.equal(few, whole[13:14, [2999, 5, 17]])


def test_noise_has_the_exponential_distribution() -> None:
    values = noise(42, 0, range(100), 10_000).exp().to(torch.float64)
    assert values.mean().item() == pytest.approx(1.0, abs=0.005)
    assert values.var().item() == pytest.approx(1.0, abs=0.02)
    # P(E < x) = 1 - exp(-x), far into the tail that wins draws.
    for x in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0):
        share = (values < x).to(torch.float64).mean().item()
        probability = -np.expm1(-x)
        deviation = (probability * (1 - probability) / values.numel()) ** 0.5
        assert abs(share - probability) < 5 * deviation


@pytest.mark.parametrize("step", [1, 2, 16, 256, 4096])
def test_neighbouring_tokens_are_independent(step: int) -> None:
    # Over positions, as in a long answer: both in the winning tail as often as chance says.
    values = noise(7, 0, range(60_000), 1)[:, 0]
    keys = keys_for(7, 0, range(60_000))
    other = log_exponential(torch.tensor([[step]], dtype=torch.int32), keys)[:, 0]
    share = ((values < -3) & (other < -3)).to(torch.float64).mean().item()
    probability = (-np.expm1(-np.exp(-3.0))) ** 2
    deviation = (probability / 60_000) ** 0.5
    assert abs(share - probability) < 5 * deviation
    assert abs(torch.corrcoef(torch.stack([values, other]))[0, 1].item()) < 5 / 60_000**0.5


@pytest.mark.parametrize(
    ("seed", "index", "first"), [(2, 0, 0), (1 + 2**32, 0, 0), (-1, 0, 0), (1, 1, 0), (1, 0, 1)]
)
def test_other_seeds_choices_and_positions_are_uncorrelated(
    seed: int, index: int, first: int
) -> None:
    one = noise(1, 0, range(50), 2000).flatten()
    other = noise(seed, index, range(first, first + 50), 2000).flatten()
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1].item()) < 5 / one.numel() ** 0.5
