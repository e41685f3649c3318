"""The arithmetic of beam search on toy distributions: against `transformers`, and exhaustively."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from engine.request import BeamSearch, FinishReason, Request, SamplingParams, TokenLogprobs
from engine.scheduling.beam_search import Beams, Hypothesis, beam_sampling

VOCAB_SIZE = 13
PROMPT = [3, 1]


class ToyModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The next token's logits are a random function of the last two tokens."""

    def __init__(self, config: PretrainedConfig, seed: int) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(seed)
        shape = (VOCAB_SIZE, VOCAB_SIZE, VOCAB_SIZE)
        self.table = torch.nn.Parameter(1.5 * torch.randn(shape, generator=generator))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        pass

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        before = torch.cat((torch.zeros_like(input_ids[:, :1]), input_ids[:, :-1]), dim=1)
        return CausalLMOutput(logits=self.table[before, input_ids])

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}


def _toy(seed: int) -> ToyModel:
    config = PretrainedConfig(vocab_size=VOCAB_SIZE, num_hidden_layers=1, hidden_size=1)
    return ToyModel(config, seed)


def _request(
    n: int,
    max_tokens: int,
    stop_token_ids: tuple[int, ...] = (),
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    min_tokens: int = 0,
    logprobs: int | None = None,
) -> Request:
    sampling = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=stop_token_ids,
        logprobs=logprobs,
    )
    return Request("r", PROMPT, sampling, n, beam_search=BeamSearch(length_penalty, early_stopping))


def _top(logprobs: Tensor, num_top: int) -> TokenLogprobs:
    best = logprobs.sort(descending=True, stable=True)
    num_top = min(num_top, VOCAB_SIZE)
    values, indices = best.values[:num_top].tolist(), best.indices[:num_top].tolist()
    return TokenLogprobs(values[0], 1, indices, values)


def _search(request: Request, logprobs: Callable[[list[int]], Tensor]) -> list[Hypothesis]:
    num_top = beam_sampling(request).logprobs
    assert num_top is not None
    beams = Beams(request, request.sampling.max_tokens)
    outputs: list[list[int]] = [[]]
    candidates = [_top(logprobs(PROMPT), num_top)]
    while continuations := beams.advance(candidates):
        outputs = [[*outputs[parent], token_id] for parent, token_id in continuations]
        candidates = [_top(logprobs([*PROMPT, *output]), num_top) for output in outputs]
    return beams.best


def _toy_logprobs(model: ToyModel) -> Callable[[list[int]], Tensor]:
    def logprobs(token_ids: list[int]) -> Tensor:
        return model.table[token_ids[-2], token_ids[-1]].detach().log_softmax(-1)

    return logprobs


def _oracle(model: ToyModel, request: Request) -> tuple[list[list[int]], list[float]]:
    params, sampling = request.beam_search, request.sampling
    assert params is not None
    generated = model.generate(
        torch.tensor([PROMPT]),
        num_beams=request.n,
        num_return_sequences=request.n,
        do_sample=False,
        max_new_tokens=sampling.max_tokens,
        min_new_tokens=sampling.min_tokens or None,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        eos_token_id=list(sampling.stop_token_ids) or None,
        pad_token_id=VOCAB_SIZE,  # never generated, so easily cut off
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    token_ids = [
        [token_id for token_id in row[len(PROMPT) :] if token_id != VOCAB_SIZE]
        for row in generated.sequences.tolist()
    ]
    return token_ids, generated.sequences_scores.tolist()


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -0.5])
@pytest.mark.parametrize("n", [2, 5])
def test_the_beams_are_those_of_transformers(
    n: int, length_penalty: float, early_stopping: bool | Literal["never"]
) -> None:
    ends = []
    for seed in range(2):
        model = _toy(seed)
        for stop_token_ids in [(), (2,), tuple(range(6))]:
            for max_tokens, min_tokens in [(1, 0), (7, 0), (7, 3)]:
                request = _request(
                    n, max_tokens, stop_token_ids, length_penalty, early_stopping, min_tokens
                )
                best = _search(request, _toy_logprobs(model))
                token_ids, scores = _oracle(model, request)
                assert [hypothesis.token_ids for hypothesis in best] == token_ids, request
                assert [hypothesis.score for hypothesis in best] == scores
                for hypothesis in best:
                    stopped = hypothesis.token_ids[-1] in stop_token_ids
                    reason = FinishReason.STOP if stopped else FinishReason.LENGTH
                    assert hypothesis.finish_reason is reason
                ends += [len(hypothesis.token_ids) for hypothesis in best]
    assert {1, 7} <= set(ends), "a case that says too little"


def test_with_room_for_all_it_finds_the_best_there_are() -> None:
    model = _toy(1)
    narrow = model.table.detach()[:, :, :3]

    def logprobs(token_ids: list[int]) -> Tensor:
        row = torch.full((VOCAB_SIZE,), -9999.0)
        row[:3] = narrow[token_ids[-2], token_ids[-1]].log_softmax(-1)
        return row

    request = _request(n=81, max_tokens=4, length_penalty=0.0, early_stopping="never")
    best = _search(request, logprobs)

    def total(token_ids: tuple[int, ...]) -> float:
        known = [*PROMPT, *token_ids]
        return sum(logprobs(known[:place])[known[place]].item() for place in range(2, len(known)))

    every = sorted(itertools.product(range(3), repeat=4), key=total, reverse=True)
    assert [tuple(hypothesis.token_ids) for hypothesis in best] == every
    assert [hypothesis.score for hypothesis in best] == pytest.approx(list(map(total, every)))


def test_the_log_probabilities_are_the_path_s_own() -> None:
    model = _toy(2)
    request = _request(n=3, max_tokens=5, stop_token_ids=(2, 7), logprobs=2)
    for hypothesis in _search(request, _toy_logprobs(model)):
        assert len(hypothesis.logprobs) == len(hypothesis.token_ids)
        known = list(PROMPT)
        for token_id, entry in zip(hypothesis.token_ids, hypothesis.logprobs, strict=True):
            row = _toy_logprobs(model)(known)
            assert entry.logprob == row[token_id].item()
            assert entry.rank == (row > row[token_id]).sum().item() + 1
            assert entry.top_token_ids == row.topk(2).indices.tolist()
            assert len(entry.top_logprobs) == 2
            known.append(token_id)
    for hypothesis in _search(
        replace(request, sampling=replace(request.sampling, logprobs=None)), _toy_logprobs(model)
    ):
        assert hypothesis.logprobs == []


def test_equals_go_to_the_better_beam_then_as_listed() -> None:
    request = _request(n=2, max_tokens=2)
    beams = Beams(request, 2)
    entry = TokenLogprobs(-1.0, 1, [4, 6, 9], [-1.0, -1.0, -1.0])
    assert beams.advance([entry]) == [(0, 4), (0, 6)]
    assert beams.advance([entry, entry]) == []
    assert [hypothesis.token_ids for hypothesis in beams.best] == [[4, 4], [4, 6]]
    assert [hypothesis.score for hypothesis in beams.best] == [-1.0, -1.0]


def test_it_is_over_when_the_best_running_one_can_only_equal_the_worst_complete_one() -> None:
    request = _request(n=1, max_tokens=9, stop_token_ids=(2,), length_penalty=0.0)
    tie = TokenLogprobs(-1.0, 1, [2, 4], [-1.0, -1.0])
    assert Beams(request, 9).advance([tie]) == []
    ahead = TokenLogprobs(-1.0, 1, [4, 2], [-1.0, -1.5])
    assert Beams(request, 9).advance([ahead]) == [(0, 4)]


@pytest.mark.parametrize("length_penalty", [1e308, -1e308])
def test_no_length_penalty_breaks_the_arithmetic(length_penalty: float) -> None:
    request = _request(3, 6, (2, 7), length_penalty)
    assert len(_search(request, _toy_logprobs(_toy(0)))) == 3


def test_a_vocabulary_of_nothing_but_stop_tokens_still_ends() -> None:
    request = _request(3, 6, tuple(range(VOCAB_SIZE)), min_tokens=2)
    best = _search(request, _toy_logprobs(_toy(0)))
    assert [len(hypothesis.token_ids) for hypothesis in best] == [1, 1, 1]
