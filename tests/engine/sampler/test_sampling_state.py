import itertools
import math

import pytest
import torch

from engine.batch import RowStart
from engine.request import Failure, SamplingParams, TokenLogprobs
from engine.sampler import Sampled, SamplingState, prompt_logprobs
from engine.sampler.state import INVALID_NUMBERS

VOCAB = 2500
CPU = torch.device("cpu")

Result = tuple[int, TokenLogprobs | None, Failure | None]


def make_state(max_num_seqs: int = 8, vocab_size: int = VOCAB) -> SamplingState:
    return SamplingState(max_num_seqs, vocab_size, CPU)


def start(
    state: SamplingState,
    row: int,
    params: SamplingParams,
    token_ids: list[int] | None = None,
    num_prompt_tokens: int | None = None,
    index: int = 0,
) -> None:
    token_ids = [1, 2, 3] if token_ids is None else token_ids
    num_prompt_tokens = len(token_ids) if num_prompt_tokens is None else num_prompt_tokens
    state.start(RowStart(row, index, params, token_ids, num_prompt_tokens))


def results(sampled: Sampled) -> list[Result]:
    token_ids, logprobs, errors = sampled.wait()
    assert sampled.token_ids.tolist() == token_ids
    return list(zip(token_ids, logprobs, errors, strict=True))


def draw_one(params: SamplingParams, logits: list[float], position: int = 3) -> int:
    state = make_state(1, len(logits))
    start(state, 0, params)
    ((token_id, _, error),) = results(state.sample(torch.tensor([logits]), [0], [position]))
    assert error is None
    return token_id


def random_logits(num_rows: int, seed: int = 0, vocab_size: int = VOCAB) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * 3


def test_greedy_takes_the_best_and_the_lowest_id_among_equals() -> None:
    logits = [0.0, 2.0, 2.0, 1.0]
    for params in (
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1e-6),
        SamplingParams(top_k=1),
        SamplingParams(top_p=0.0),
        SamplingParams(temperature=0.0, top_k=3, top_p=0.5, min_p=0.1),
    ):
        assert draw_one(params, logits) == 1


def test_a_tiny_top_p_and_a_full_min_p_leave_the_best_token() -> None:
    logits = random_logits(1)[0].tolist()
    best = max(range(VOCAB), key=lambda i: logits[i])
    for seed in range(20):
        assert draw_one(SamplingParams(top_p=1e-9, seed=seed), logits) == best
        assert draw_one(SamplingParams(min_p=1.0, seed=seed), logits) == best


def test_filters_that_filter_nothing_change_nothing() -> None:
    logits = random_logits(1)[0].tolist()
    for seed in range(10):
        plain = draw_one(SamplingParams(seed=seed), logits)
        assert draw_one(SamplingParams(seed=seed, top_k=-1), logits) == plain
        assert draw_one(SamplingParams(seed=seed, top_k=VOCAB + 5), logits) == plain
        assert draw_one(SamplingParams(seed=seed, min_p=1e-30), logits) == plain
        assert draw_one(SamplingParams(seed=seed, top_p=1 - 1e-7), logits) == plain


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bias_lifts_and_bans(temperature: float) -> None:
    logits = [3.0, 2.0, 1.0, 0.0]
    lifted = SamplingParams(temperature=temperature, logit_bias={3: 100.0})
    assert draw_one(lifted, logits) == 3
    banned = SamplingParams(temperature=temperature, logit_bias={0: -100.0, 1: -100.0, 3: -100.0})
    assert draw_one(banned, logits) == 2


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(),
        SamplingParams(top_k=3),
        SamplingParams(top_p=0.5, min_p=0.1),
    ],
)
def test_banning_everything_still_gives_a_token(params: SamplingParams) -> None:
    everything = SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        logit_bias=dict.fromkeys(range(5), -100.0),
        logprobs=1,
    )
    # The bias is the same for all, so the draw is as if there were none.
    assert draw_one(everything, [1.0, 2.0, 3.0, 2.0, 1.0]) == draw_one(
        params, [1.0, 2.0, 3.0, 2.0, 1.0]
    )
    forbidden = SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_tokens=1,
        stop_token_ids=(0, 1, 2, 3, 4),
    )
    # All are equals then: the draw is as if their logits were.
    equals = [1.0, 1.0, 1.0, 1.0, 1.0]
    assert draw_one(forbidden, [1.0, 2.0, 3.0, 2.0, 1.0]) == draw_one(params, equals)


@pytest.mark.parametrize("method", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}])
@pytest.mark.parametrize("penalty", [1e-38, 1e-300])  # the second is 0 in float32
def test_a_penalty_that_divides_by_next_to_nothing(
    penalty: float, method: dict[str, float]
) -> None:
    """Infinities would leave nothing to compare: a token that is not allowed was drawn."""
    logits = [1.0, 2.0, -3.0, 4.0, 5.0, 0.0]
    drawn = set()
    for seed in range(20):
        params = SamplingParams(
            repetition_penalty=penalty, allowed_token_ids=(1, 3, 5), seed=seed, **method
        )
        state = make_state(1, len(logits))
        start(state, 0, params, [1, 2, 3, 5])
        ((token_id, _, error),) = results(state.sample(torch.tensor([logits]), [0], [4]))
        assert error is None
        drawn.add(token_id)
    assert drawn == {1, 3}, "as good as each other, and better than what did not occur"


def test_ids_that_the_model_does_not_have_are_ignored() -> None:
    params = SamplingParams(
        temperature=0.0, logit_bias={-1: 100.0, 3: 100.0}, stop_token_ids=(-1, 99), min_tokens=1
    )
    assert draw_one(params, [0.0, 5.0, 1.0]) == 1


def test_stop_tokens_wait_for_min_tokens() -> None:
    params = SamplingParams(temperature=0.0, min_tokens=2, stop_token_ids=(0, 2))
    logits = [3.0, 1.0, 2.0]
    # Three prompt tokens: positions 3 and 4 are the first two generated ones.
    assert [draw_one(params, logits, position) for position in (3, 4, 5)] == [1, 1, 0]


def test_edits_come_in_order() -> None:
    # Token 1 was in the prompt: 4 / 2 + 1.5 = 3.5. Bias first would give (4 + 1.5) / 2 = 2.75.
    params = SamplingParams(temperature=0.0, repetition_penalty=2.0, logit_bias={1: 1.5})
    assert draw_one(params, [3.4, 4.0, 0.0, 0.0]) == 1
    assert draw_one(params, [3.6, 4.0, 0.0, 0.0]) == 0
    # Not even a bias makes a stop token come early.
    early = SamplingParams(temperature=0.0, logit_bias={1: 100}, min_tokens=9, stop_token_ids=(1,))
    assert draw_one(early, [3.0, 4.0, 0.0]) == 0


def test_penalties_follow_the_drawn_tokens_without_waiting() -> None:
    params = SamplingParams(temperature=0.0, frequency_penalty=1.0)
    state = make_state(2, 5)
    start(state, 1, params, token_ids=[4, 4, 4])
    logits = torch.tensor([[2.5, 1.9, 0.0, 0.0, 2.8]])
    launches = [state.sample(logits, [1], [3 + i]) for i in range(6)]
    # 4 2.8 | 0 2.5 | 1 1.9 | 4 1.8 | 0 1.5 | 1 0.9, each seen once less at its turn.
    assert [launch.wait()[0] for launch in launches] == [[4], [0], [1], [4], [0], [1]]


def test_a_restarted_row_counts_what_was_generated_before() -> None:
    params = SamplingParams(temperature=0.8, seed=5, repetition_penalty=1.3, presence_penalty=0.5)
    prompt = list(range(100, 140))
    all_logits = random_logits(40, seed=9)

    def generate(state: SamplingState, row: int, token_ids: list[int], until: int) -> list[int]:
        token_ids = list(token_ids)
        start(state, row, params, token_ids, len(prompt))
        for position in range(len(token_ids), until):
            logits = all_logits[position - len(prompt)][None]
            token_ids += state.sample(logits, [row], [position]).wait()[0]
        return token_ids

    whole = generate(make_state(), 3, prompt, 80)
    state = make_state()
    generate(state, 5, [7] * 60, 80)  # another sequence had the row before
    half = generate(state, 5, prompt, 60)
    assert half == whole[:60]
    assert generate(state, 2, half, 80) == whole
    assert generate(state, 5, half, 80) == whole


def test_penalties_reach_over_long_sequences() -> None:
    params = SamplingParams(temperature=0.0, presence_penalty=2.0)
    state = make_state(2, 4)
    start(state, 0, params, token_ids=[3] * 1023 + [1], num_prompt_tokens=1023)
    logits = torch.tensor([[0.0, 3.0, 2.5, 2.4]])
    drawn = [state.sample(logits, [0], [1024 + i]).wait()[0][0] for i in range(3)]
    assert drawn == [2, 3, 1]
    start(state, 1, params, token_ids=[0] * 5000 + [1], num_prompt_tokens=1)
    assert state.sample(logits.repeat(2, 1), [1, 0], [5001, 1027]).wait()[0] == [2, 1]


ALL_PARAMS = [
    SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=len(name),
        logprobs=logprobs,
        **edits,  # type: ignore[arg-type]
    )
    for (name, edits), temperature, top_k, top_p, min_p, logprobs in itertools.product(
        {
            "": {},
            "penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
            "bias": {"logit_bias": {5: 4.0, 6: -100.0}, "presence_penalty": 0.5},
            "min_tokens": {"min_tokens": 4, "stop_token_ids": (0, 7)},
        }.items(),
        (0.0, 0.7),
        (0, 50, 300),
        (0.9, 1.0),
        (0.0, 0.05),
        (None, 3),
    )
]


def test_a_row_alone_is_the_row_in_any_batch() -> None:
    num_rows = len(ALL_PARAMS)
    logits = random_logits(num_rows, seed=4)
    logits[:, 40:60] = logits[:, 100:120]  # equal logits
    prompts = [list(range(row % 7, 30 + row)) for row in range(num_rows)]
    positions = [len(prompt) for prompt in prompts]

    def run(batches: list[list[int]]) -> dict[int, Result]:
        state = make_state(num_rows)
        for row, params in enumerate(ALL_PARAMS):
            start(state, row, params, prompts[row], 10)
        found: dict[int, Result] = {}
        for rows in batches:
            sampled = state.sample(logits[rows], rows, [positions[row] for row in rows])
            found.update(zip(rows, results(sampled), strict=True))
        return found

    alone = run([[row] for row in range(num_rows)])
    rows = list(range(num_rows))
    assert run([rows]) == alone
    assert run([rows[::-1]]) == alone
    assert run([rows[i::5] for i in range(5)]) == alone
    assert len({token_id for token_id, _, _ in alone.values()}) > 20


def test_seed_choice_and_position_decide_the_draw() -> None:
    logits = random_logits(1)

    def draw(seed: int, index: int, position: int) -> int:
        state = make_state()
        start(state, 4, SamplingParams(seed=seed, temperature=2.0), index=index)
        return state.sample(logits, [4], [position]).wait()[0][0]

    assert [draw(1, 0, i) for i in range(3, 9)] == [draw(1, 0, i) for i in range(3, 9)]
    assert len({draw(seed, 0, 3) for seed in range(-5, 5)}) > 5
    assert len({draw(1, index, 3) for index in range(10)}) > 5
    assert len({draw(1, 0, position) for position in range(3, 13)}) > 5


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    state = make_state()
    params = SamplingParams(
        temperature=0.0, logit_bias={9: 100.0}, repetition_penalty=1.5, logprobs=4
    )
    start(state, 0, params)
    start(state, 1, SamplingParams(temperature=0.3))
    start(state, 2, SamplingParams(temperature=0.3, top_k=5, logprobs=0))
    logits = random_logits(3)
    before = logits.clone()
    token_ids, logprobs, errors = state.sample(logits, [0, 1, 2], [3, 3, 3]).wait()
    assert torch.equal(logits, before)
    assert errors == [None, None, None]
    assert token_ids[0] == 9
    assert logprobs[0] == prompt_logprobs(logits[:1], [9], 4)[0]
    assert logprobs[1] is None
    assert logprobs[2] == prompt_logprobs(logits[2:], token_ids[2:], 0)[0]


def test_invalid_numbers_fail_their_row_alone() -> None:
    many = [
        SamplingParams(logprobs=2),
        SamplingParams(temperature=0.0),
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=40, presence_penalty=0.5),
    ]
    state = make_state(16)
    for row in range(16):
        start(state, row, many[row % 4])
    logits = random_logits(16)
    expected = results(state.sample(logits, list(range(16)), [3] * 16))
    logits[4:8, 11] = math.nan
    logits[8:12, 12] = math.inf
    logits[12:16] = -math.inf
    logits[3, :2000] = -math.inf  # a mask is not an error
    for row in range(16):
        start(state, row, many[row % 4])
    found = results(state.sample(logits, list(range(16)), [3] * 16))
    assert found[:3] == expected[:3]
    assert found[3][0] >= 2000 and found[3][2] is None
    assert found[4:] == [(0, None, INVALID_NUMBERS)] * 12


def test_an_empty_launch_and_a_tiny_vocabulary() -> None:
    state = make_state(2, 1)
    assert state.sample(torch.zeros(0, 1), [], []).wait() == ([], [], [])
    start(state, 0, SamplingParams(top_k=5, logprobs=20))
    start(state, 1, SamplingParams(top_p=0.5))
    token_ids, logprobs, _ = state.sample(torch.zeros(2, 1), [0, 1], [3, 3]).wait()
    assert token_ids == [0, 0]
    assert logprobs == [TokenLogprobs(0.0, 1, [0], [0.0]), None]
