"""Allowed tokens and bad words, against an oracle that edits a list of floats in plain Python."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler import SamplingState, prompt_logprobs
from engine.sampler.state import INVALID_NUMBERS

VOCAB = 24
PROMPT = [3, 5, 3, 5, 3]
CPU = torch.device("cpu")

METHODS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.3},
    {"top_k": 7, "top_p": 0.95},
    {"top_p": 0.9},
    {"min_p": 0.02},
]
# Short words over a small vocabulary come up all the time; two end alike, one holds itself.
WORDS = ((4,), (1, 2), (7, 2), (5, 5, 5), (3, 8), (8, 9, 8, 9), (23,), (5, 6), (6, 5), (2, 2))
EDITS: list[dict[str, Any]] = [
    {},
    {"allowed_token_ids": (2, 5, 6, 8, 9, 11, 5, -1, VOCAB, 2**63)},
    {"bad_words": WORDS},
    {"bad_words": ((1,), (2,), (3,))},
    {"allowed_token_ids": tuple(range(1, 12)), "bad_words": WORDS, "min_tokens": 9},
    {"repetition_penalty": 1.3, "presence_penalty": 0.4, "bad_words": WORDS},
    {"logit_bias": {9: 6.0, 8: 6.0, 4: 50.0}, "bad_words": WORDS, "min_tokens": 4},
    {"logit_bias": {0: 90.0, 5: 2.0}, "allowed_token_ids": (1, 4, 5, 6), "frequency_penalty": 0.3},
    {"allowed_token_ids": (17,)},
]


def random_edit(seed: int) -> dict[str, Any]:
    chance = random.Random(seed)  # noqa: S311

    def token_ids(num: int) -> tuple[int, ...]:
        return tuple(chance.choices(range(VOCAB), k=num))

    edit: dict[str, Any] = {"bad_words": tuple(token_ids(1 + i // 8) for i in range(20))}
    edit["allowed_token_ids"] = token_ids(chance.choice((9, 30)))
    edit["logit_bias"] = dict.fromkeys(token_ids(3), chance.uniform(-3, 6))
    edit["min_tokens"] = chance.randrange(9)
    edit["repetition_penalty"] = chance.uniform(0.8, 1.5)
    return {name: edit[name] for name in chance.sample(sorted(edit), 3)}


EDITS += [random_edit(seed) for seed in range(12)]
ROWS = [
    SamplingParams(seed=7 * i + j, stop_token_ids=(2, 11), **edit, **method)
    for i, edit in enumerate(EDITS)
    for j, method in enumerate(METHODS)
]


def logits_of(num_rows: int, seed: int, vocab_size: int = VOCAB) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * 2


def edited(logits: list[float], params: SamplingParams, output: list[int]) -> list[float]:
    """What is left to draw from, each stage as its parameter is documented. In float32."""
    values = [np.float32(value) for value in logits]
    for token_id in range(len(values)):
        value = values[token_id]
        if token_id in PROMPT + output:
            penalty = np.float32(params.repetition_penalty)
            value = value / penalty if value > 0 else value * penalty
        value -= np.float32(output.count(token_id)) * np.float32(params.frequency_penalty)
        if token_id in output:
            value -= np.float32(params.presence_penalty)
        values[token_id] = value + np.float32(params.logit_bias.get(token_id, 0.0))
    forbidden = set()
    if params.allowed_token_ids is not None:
        forbidden |= set(range(len(values))) - set(params.allowed_token_ids)
    for *before, last in params.bad_words:
        if len(before) <= len(output) and output[len(output) - len(before) :] == before:
            forbidden.add(last)
    if len(output) < params.min_tokens:
        forbidden |= set(params.stop_token_ids)
    return [-math.inf if i in forbidden else float(value) for i, value in enumerate(values)]


def plain(params: SamplingParams) -> SamplingParams:
    """The same draw without an edit."""
    return SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed,
    )


def draw_plain(params: SamplingParams, logits: list[float], position: int) -> int:
    state = SamplingState(1, len(logits), CPU)
    state.start(RowStart(0, 0, plain(params), [0], 1))
    ((token_id,), _, (error,)) = state.sample(torch.tensor([logits]), [0], [position]).wait()
    assert error is None
    return token_id


def expected_output(params: SamplingParams, steps: list[list[float]]) -> list[int]:
    output: list[int] = []
    for logits in steps:
        left = edited(logits, params, output)
        output.append(draw_plain(params, left, len(PROMPT) + len(output)))
    return output


def outputs_of(
    state: SamplingState, rows: list[int], steps: torch.Tensor, first: int = 0
) -> list[list[int]]:
    """The tokens of each row, all launches queued before the first is waited for."""
    launches = [
        state.sample(steps[i][rows], rows, [len(PROMPT) + i] * len(rows))
        for i in range(first, len(steps))
    ]
    columns = [launch.wait()[0] for launch in launches]
    return [list(row) for row in zip(*columns, strict=True)]


def started(all_params: list[SamplingParams]) -> SamplingState:
    state = SamplingState(len(all_params), VOCAB, CPU)
    for row, params in enumerate(all_params):
        state.start(RowStart(row, 0, params, PROMPT, len(PROMPT)))
    return state


STEPS = torch.stack([logits_of(len(ROWS), step) for step in range(12)])


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return [expected_output(params, STEPS[:, row].tolist()) for row, params in enumerate(ROWS)]


def test_mixed_rows_draw_what_the_oracle_says(expected: list[list[int]]) -> None:
    found = outputs_of(started(ROWS), list(range(len(ROWS))), STEPS)
    assert found == expected
    # And every edit matters: without it its rows would say something else.
    unedited = outputs_of(started([plain(row) for row in ROWS]), list(range(len(ROWS))), STEPS)
    n = len(METHODS)
    changed = [found[i : i + n] != unedited[i : i + n] for i in range(0, len(ROWS), n)]
    assert changed == [bool(edit) for edit in EDITS]


def test_a_row_is_the_same_in_any_batch(expected: list[list[int]]) -> None:
    num_rows = len(ROWS)
    for rows in ([5], [12, 3], list(range(num_rows))[::-1], list(range(1, num_rows, 3))):
        assert outputs_of(started(ROWS), rows, STEPS) == [expected[row] for row in rows]


@pytest.mark.parametrize("num_known", [1, 3, 8])
def test_a_row_that_starts_again_goes_on_as_before(
    num_known: int, expected: list[list[int]]
) -> None:
    state = started([SamplingParams(bad_words=((1, 1),), presence_penalty=1.0)] * len(ROWS))
    outputs_of(state, list(range(len(ROWS))), STEPS)  # others had the rows before
    for row, params in enumerate(ROWS):
        token_ids = PROMPT + expected[row][:num_known]
        state.start(RowStart(row, 0, params, token_ids, len(PROMPT)))
    found = outputs_of(state, list(range(len(ROWS))), STEPS, first=num_known)
    assert found == [output[num_known:] for output in expected]


def greedy(params: SamplingParams, logits: list[float], num_tokens: int) -> list[int]:
    state = SamplingState(1, len(logits), CPU)
    state.start(RowStart(0, 0, replace(params, temperature=0.0), PROMPT, len(PROMPT)))
    return outputs_of(state, [0], torch.tensor(logits).expand(num_tokens, 1, -1))[0]


def test_a_bad_word_does_not_begin_in_the_prompt() -> None:
    # The prompt ends with 3; the first token may be 5 all the same, the third may not.
    logits = [0.0, 0.0, 0.0, 8.0, 0.0, 9.0]
    assert greedy(SamplingParams(bad_words=((3, 5),)), logits, 2) == [5, 5]
    words = ((3, 5), (5, 5))
    assert greedy(SamplingParams(bad_words=words), logits, 4) == [5, 3, 3, 3]
    assert greedy(SamplingParams(bad_words=((5, 3, 5, 5), (5, 5, 5))), logits, 5) == [5, 5, 3, 5, 3]


def test_words_that_cannot_come_up_are_ignored() -> None:
    words: tuple[tuple[int, ...], ...] = ((), (9,), (1, -1), (6, 1), (2**63,))
    assert greedy(SamplingParams(bad_words=words), [0.0, 9.0], 3) == [1, 1, 1]


def test_long_sequences_are_looked_back_at() -> None:
    # Longer than the history's first capacity, and a word longer than what was drawn so far.
    cycle = [7, 8, 9]
    output = cycle * 700
    params = SamplingParams(temperature=0.0, bad_words=(tuple(output[-600:]) + (7,), (8,) * 9000))
    logits = torch.zeros(1, 12)
    logits[0, 7] = 2.0
    logits[0, 5] = 1.0
    state = SamplingState(2, 12, CPU)
    state.start(RowStart(1, 0, params, PROMPT + output, len(PROMPT)))
    position = len(PROMPT) + len(output)
    launches = [state.sample(logits, [1], [position + i]) for i in range(2)]
    assert [launch.wait()[0] for launch in launches] == [[5], [7]]
    state.start(RowStart(1, 0, params, PROMPT + output, len(PROMPT) + len(output) - 599))
    assert state.sample(logits, [1], [position]).wait()[0] == [7]


@pytest.mark.parametrize("method", METHODS)
def test_allowed_tokens_hold_whatever_else_is_asked(method: dict[str, Any]) -> None:
    logits = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    def drawn(logits: list[float] = logits, **edits: Any) -> set[int]:
        found = set()
        for seed in range(20):
            params = SamplingParams(seed=seed, **method, **edits)
            state = SamplingState(1, len(logits), CPU)
            state.start(RowStart(0, 0, params, PROMPT, len(PROMPT)))
            token_ids, _, errors = state.sample(torch.tensor([logits]), [0], [5]).wait()
            assert errors == [None]
            found |= set(token_ids)
        return found

    early = {"min_tokens": 3, "stop_token_ids": (2, 4)}
    assert drawn(allowed_token_ids=(4,), **early) == {4}
    assert drawn(allowed_token_ids=(1,), bad_words=((1,),)) == {1}
    # Rather too early than with a bad word.
    assert drawn(allowed_token_ids=(2, 3), bad_words=((3,),), **early) == {2}
    assert drawn(allowed_token_ids=(2, 3), bad_words=((3,), (2,)), **early) <= {2, 3}
    assert drawn(allowed_token_ids=(0, 2), logit_bias={0: -100.0, 5: 100.0}, **early) == {0}
    # Even what the model itself gives no chance.
    assert drawn([-math.inf, 1.0, -math.inf], allowed_token_ids=(2,)) == {2}
    assert drawn(bad_words=tuple((i,) for i in range(5))) == {5}
    # A list of tokens that the model does not have restricts nothing.
    assert drawn(allowed_token_ids=(-1, 99)) == drawn()


def test_equals_where_all_is_forbidden_are_drawn_evenly() -> None:
    words = tuple((i,) for i in range(4))
    counts = [0] * 4
    for seed in range(400):
        state = SamplingState(1, 4, CPU)
        params = SamplingParams(seed=seed, bad_words=words)
        state.start(RowStart(0, 0, params, [0], 1))
        counts[state.sample(torch.tensor([[5.0, 0.0, -5.0, 50.0]]), [0], [1]).wait()[0][0]] += 1
    assert all(60 < count < 140 for count in counts)  # 100 each, deviation 8.7
    assert greedy(SamplingParams(bad_words=words), [5.0, 0.0, -5.0, 50.0], 2) == [0, 0]


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    params = SamplingParams(
        temperature=0.0, allowed_token_ids=(3, 9), bad_words=((3,), (9, 9)), logprobs=4
    )
    state = SamplingState(1, VOCAB, CPU)
    state.start(RowStart(0, 0, params, PROMPT, len(PROMPT)))
    logits = logits_of(1, 3)
    before = logits.clone()
    for position, token_id in ((5, 9), (6, 3)):  # 3 is no better than 9 then: the lowest id
        token_ids, (entry,), _ = state.sample(logits, [0], [position]).wait()
        assert token_ids == [token_id]
        assert entry == prompt_logprobs(logits, [token_id], 4)[0]
    assert torch.equal(logits, before)


def test_invalid_numbers_fail_even_where_they_could_not_be_drawn() -> None:
    rows = [SamplingParams(allowed_token_ids=(1, 2)), SamplingParams(bad_words=((5,),))] * 3
    logits = logits_of(6, 1)
    expected = started(rows).sample(logits, list(range(6)), [5] * 6).wait()[0]
    logits[2, 5] = logits[3, 5] = math.nan
    logits[4, 1] = math.inf
    token_ids, _, errors = started(rows).sample(logits, list(range(6)), [5] * 6).wait()
    assert errors == [None, None, INVALID_NUMBERS, INVALID_NUMBERS, INVALID_NUMBERS, None]
    for row in (0, 1, 5):
        assert token_ids[row] == expected[row]


class _NotRead:
    """Stands for the copy to the host, which nothing needs to be ready for."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        assert all(tensor.is_meta for tensor in tensors)


def test_nothing_is_read_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there is nothing to read: asking for a value raises."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr("engine.sampler.state.HostCopy", _NotRead)
    meta = torch.device("meta")
    state = SamplingState(len(ROWS), VOCAB, meta)
    rows = list(range(len(ROWS)))
    for row, params in enumerate(ROWS):
        sampling = replace(params, logprobs=2)
        state.start(RowStart(row, 0, sampling, [*PROMPT, 8, 9], len(PROMPT)))
    for position in range(7, 10):
        logits = torch.empty(len(ROWS), VOCAB, device=meta)
        assert state.sample(logits, rows, [position] * len(rows)).token_ids.is_meta
