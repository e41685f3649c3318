"""The engine's numbers, in float32, against `transformers` reading the same GGUF file.

Greedy tokens must be the oracle's for as long as its two best logits differ by more than
`MARGIN`: alone, in company, cached, preempted, chunked. Prompt log-probabilities must agree, and
so must beams.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine import EngineConfig, Request, SamplingParams, open_checkpoint
from engine.core import EngineCore
from engine.request import BeamSearch, ChoiceOutput
from engine.runner import ModelRunner
from server.tokenizer import load_tokenizer

pytestmark = pytest.mark.timeout(600)  # a minute or two on two quiet cores

MARGIN = 0.01
NUM_TOKENS = 48
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "1, 2, 3, 5, 8, 13,",
    "Dear Sir or Madam,\n\nI am writing to you because",
    "The three laws of thermodynamics state that energy " * 8,
    "Żółta łódź podwodna — 日本語 🙂",
]


@dataclass(frozen=True)
class Oracle:
    """What `transformers` says: greedy tokens, how far they can be trusted, prompt logprobs."""

    prompts: list[list[int]]
    token_ids: list[list[int]]
    num_certain: list[int]
    prompt_logprobs: list[list[float]]


@pytest.fixture(scope="module")
def runner(builtin_model: Path) -> ModelRunner:
    config = EngineConfig(
        model_path=str(builtin_model), device="cpu", dtype="float32", kv_cache_memory=256 << 20
    )
    return ModelRunner.load(config, lambda phase, fraction: None)


@pytest.fixture(scope="module")
def prompts(builtin_model: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    return [tokenizer.encode(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def alone(runner: ModelRunner, prompts: list[list[int]]) -> list[list[int]]:
    """What the engine draws for each prompt when it has nothing else to do."""
    return [
        _tokens(_run(_core(runner, enable_prefix_caching=False), [_greedy(prompts, which)])[name])
        for which, name in enumerate(f"p{which}" for which in range(len(prompts)))
    ]


@pytest.fixture(scope="module")
def model(builtin_model: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        builtin_model.parent, gguf_file=builtin_model.name, dtype=torch.float32
    )


@pytest.fixture(scope="module")
def oracle(model: PreTrainedModel, prompts: list[list[int]], alone: list[list[int]]) -> Oracle:
    """Asks for the successor of every prefix of prompt and answer in one pass: as long as the
    answers agree, that is the oracle's own greedy generation, a token at a time."""
    result = Oracle(prompts, [], [], [])
    with torch.inference_mode():
        for prompt, answer in zip(prompts, alone, strict=True):
            logits = model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
            logprobs = logits[: len(prompt) - 1].log_softmax(-1)
            targets = torch.tensor(prompt[1:])
            result.prompt_logprobs.append(logprobs.gather(1, targets[:, None])[:, 0].tolist())
            best = logits[len(prompt) - 1 :].topk(2)
            margins = (best.values[:, 0] - best.values[:, 1]).tolist()
            unsure = [i for i, margin in enumerate(margins) if margin <= MARGIN]
            result.token_ids.append(best.indices[:, 0].tolist())
            result.num_certain.append(unsure[0] if unsure else NUM_TOKENS)
    assert sum(result.num_certain) > 0.8 * NUM_TOKENS * len(prompts), "prompts say too little"
    return result


def _core(runner: ModelRunner, **limits: int | bool) -> EngineCore:
    return EngineCore(runner, replace(runner.scheduler_config, **limits))


def _run(core: EngineCore, requests: list[Request]) -> dict[str, list[ChoiceOutput]]:
    outputs: dict[str, list[ChoiceOutput]] = {request.request_id: [] for request in requests}
    for request in requests:
        core.add(request)
    while core.has_work:
        for output in core.step():
            outputs[output.request_id].append(output)
        core.scheduler.check_integrity()
    return outputs


def _tokens(outputs: list[ChoiceOutput]) -> list[int]:
    assert all(output.error is None for output in outputs)
    return [token_id for output in outputs for token_id in output.token_ids]


def _greedy(prompts: list[list[int]], which: int) -> Request:
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)
    return Request(f"p{which}", prompts[which], sampling)


def _company(count: int) -> list[Request]:
    """Other people's requests: random prompts, all sorts of parameters."""
    generator = torch.Generator().manual_seed(7)
    requests = []
    for i in range(count):
        length = 1 + 11 * i
        prompt = torch.randint(20, 49000, (length,), generator=generator).tolist()
        sampling = SamplingParams(
            temperature=(0.0, 0.7, 1.0)[i % 3],
            top_p=(1.0, 0.9)[i % 2],
            top_k=(0, 40)[i // 2 % 2],
            presence_penalty=(0.0, 0.5)[i // 3 % 2],
            seed=i,
            max_tokens=10 + 3 * i,
            logprobs=(None, 3)[i % 2],
        )
        requests.append(Request(f"other{i}", prompt, sampling))
    return requests


def _check(oracle: Oracle, which: int, token_ids: list[int]) -> None:
    certain = oracle.num_certain[which]
    assert len(token_ids) == NUM_TOKENS
    assert token_ids[:certain] == oracle.token_ids[which][:certain], PROMPTS[which]


def test_alone(oracle: Oracle, alone: list[list[int]]) -> None:
    for which, token_ids in enumerate(alone):
        _check(oracle, which, token_ids)


def test_among_fifteen_others(oracle: Oracle, runner: ModelRunner) -> None:
    chosen = (0, 3, 6)
    requests = _company(13)
    for place, which in enumerate(chosen):
        requests.insert(6 * place, _greedy(oracle.prompts, which))
    outputs = _run(_core(runner), requests)
    for which in chosen:
        _check(oracle, which, _tokens(outputs[f"p{which}"]))


def test_all_together_then_all_cached(oracle: Oracle, runner: ModelRunner) -> None:
    core = _core(runner)
    requests = [_greedy(oracle.prompts, which) for which in range(len(PROMPTS))]
    first = _run(core, requests)
    second = _run(core, requests)
    for which in range(len(PROMPTS)):
        _check(oracle, which, _tokens(first[f"p{which}"]))
        _check(oracle, which, _tokens(second[f"p{which}"]))
    cached = [second[f"p{which}"][0].num_cached_tokens for which in range(len(PROMPTS))]
    assert cached == [(len(prompt) - 1) // 16 * 16 for prompt in oracle.prompts]
    assert any(cached)


def test_across_preemptions(oracle: Oracle, runner: ModelRunner) -> None:
    core = _core(runner, num_blocks=14, max_model_len=14 * 16)
    outputs = _run(core, [_greedy(oracle.prompts, which) for which in range(len(PROMPTS))])
    assert core.stats().num_preemptions >= 3
    for which in range(len(PROMPTS)):
        _check(oracle, which, _tokens(outputs[f"p{which}"]))


@pytest.mark.parametrize("budget", [5, 13])
def test_chunked_in_odd_sizes(oracle: Oracle, runner: ModelRunner, budget: int) -> None:
    core = _core(runner, max_num_batched_tokens=budget, enable_prefix_caching=False)
    outputs = _run(core, [_greedy(oracle.prompts, which) for which in (1, 3, 6)])
    for which in (1, 3, 6):
        _check(oracle, which, _tokens(outputs[f"p{which}"]))


@pytest.mark.parametrize("budget", [512, 11])
def test_prompt_logprobs(oracle: Oracle, runner: ModelRunner, budget: int) -> None:
    core = _core(runner, max_num_batched_tokens=budget)
    for _ in range(2):  # the second time with a warm prefix cache, which must not be read
        requests = [
            replace(
                _greedy(oracle.prompts, which),
                sampling=SamplingParams(max_tokens=0, prompt_logprobs=1),
            )
            for which in range(len(PROMPTS))
        ]
        outputs = _run(core, requests)
        for which, prompt in enumerate(oracle.prompts):
            (output,) = outputs[f"p{which}"]
            assert output.prompt_logprobs is not None
            assert output.prompt_logprobs[0] is None
            assert len(output.prompt_logprobs) == len(prompt)
            got = [entry.logprob for entry in output.prompt_logprobs[1:] if entry is not None]
            assert got == pytest.approx(oracle.prompt_logprobs[which], abs=1e-3)


def _seeded(prompts: list[list[int]]) -> list[Request]:
    """Two requests with two choices each."""
    return [
        Request(
            f"p{which}",
            prompts[which],
            SamplingParams(temperature=1.0, seed=1234 + which, max_tokens=NUM_TOKENS),
            n=2,
        )
        for which in (1, 5)
    ]


def _choices(outputs: dict[str, list[ChoiceOutput]]) -> dict[tuple[str, int], list[int]]:
    return {
        (name, index): _tokens([output for output in outputs[name] if output.index == index])
        for name in ("p1", "p5")
        for index in (0, 1)
    }


def test_seeded_requests_are_the_same_alone_in_company_and_after_a_restart(
    prompts: list[list[int]], runner: ModelRunner, builtin_model: Path
) -> None:
    one_by_one: dict[str, list[ChoiceOutput]] = {}
    for request in _seeded(prompts):
        one_by_one |= _run(_core(runner), [request])
    expected = _choices(one_by_one)
    assert all(len(token_ids) == NUM_TOKENS for token_ids in expected.values())
    assert expected["p1", 0] != expected["p1", 1]

    assert _choices(_run(_core(runner), [*_company(14), *_seeded(prompts)])) == expected

    config = EngineConfig(
        model_path=str(builtin_model), device="cpu", dtype="float32", kv_cache_memory=64 << 20
    )
    restarted = ModelRunner.load(config, lambda phase, fraction: None)
    assert _choices(_run(_core(restarted), _seeded(prompts))) == expected


def test_guesses_change_nothing(prompts: list[list[int]], runner: ModelRunner) -> None:
    """Bit for bit: a row's numbers do not depend on what is computed beside it."""
    requests = [
        replace(_greedy(prompts, 4), sampling=SamplingParams(0.0, max_tokens=96, logprobs=2)),
        *_seeded(prompts),
        *(request for request in _company(6) if request.sampling.presence_penalty == 0),
    ]
    told = []
    for max_drafts in (0, 8):
        core = _core(runner, max_drafts=max_drafts, step_overhead=1000.0)
        outputs = _run(core, requests)
        told.append(
            {
                (name, index): [
                    (token_id, entry)
                    for output in outputs[name]
                    if output.index == index
                    for token_id, entry in zip(
                        output.token_ids,
                        output.logprobs or [None] * len(output.token_ids),
                        strict=True,
                    )
                ]
                for name in outputs
                for index in (0, 1)
            }
        )
    assert told[0] == told[1]
    assert core.stats().num_right_drafts > 20
    assert core.stats().num_drafts > core.stats().num_right_drafts


# Prompt, beams, length penalty, early stopping, tokens, and texts that stop.
BEAM_CASES: list[tuple[int, int, float, bool | Literal["never"], int, list[str]]] = [
    (0, 2, 1.0, False, 16, [".", ","]),
    (1, 3, 0.0, "never", 16, [",", "."]),
    (2, 4, 1.0, True, 16, ["\n"]),
    (3, 5, 2.0, "never", 20, ["."]),
    (4, 5, 1.0, False, 16, []),
    (5, 3, -1.0, True, 16, ["."]),
]


@pytest.fixture(scope="module")
def beam_requests(builtin_model: Path, prompts: list[list[int]]) -> list[Request]:
    tokenizer = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    return [
        Request(
            f"beams{which}",
            prompts[which],
            SamplingParams(
                max_tokens=max_tokens,
                stop_token_ids=tuple(tokenizer.encode(text)[0] for text in stops),
                logprobs=1,
            ),
            n=n,
            beam_search=BeamSearch(length_penalty, early_stopping),
        )
        for which, n, length_penalty, early_stopping, max_tokens, stops in BEAM_CASES
    ]


@pytest.fixture(scope="module")
def beam_oracle(model: PreTrainedModel, beam_requests: list[Request]) -> dict[str, list[list[int]]]:
    """The beams of each request, by the real `generate`."""
    found = {}
    for request in beam_requests:
        assert request.beam_search is not None
        prompt = torch.tensor([request.prompt_token_ids])
        generated = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            num_beams=request.n,
            num_return_sequences=request.n,
            do_sample=False,
            max_new_tokens=request.sampling.max_tokens,
            length_penalty=request.beam_search.length_penalty,
            early_stopping=request.beam_search.early_stopping,
            eos_token_id=list(request.sampling.stop_token_ids) or [-1],
            pad_token_id=-2,
        )
        rows = generated[:, prompt.shape[1] :].tolist()
        found[request.request_id] = [[i for i in row if i != -2] for row in rows]
    lengths = {len(token_ids) for beams in found.values() for token_ids in beams}
    assert len(lengths) > 4, "prompts say too little"
    return found


def _check_beams(
    requests: list[Request],
    outputs: dict[str, list[ChoiceOutput]],
    oracle: dict[str, list[list[int]]],
) -> None:
    for request in requests:
        choices = outputs[request.request_id]
        assert [output.index for output in choices] == list(range(request.n))
        assert [output.token_ids for output in choices] == oracle[request.request_id]
        for output in choices:
            assert output.logprobs is not None and len(output.logprobs) == len(output.token_ids)


def test_beams_alone(
    runner: ModelRunner, beam_requests: list[Request], beam_oracle: dict[str, list[list[int]]]
) -> None:
    for request in beam_requests[1::2]:  # the others come in company
        _check_beams([request], _run(_core(runner), [request]), beam_oracle)


def test_beams_in_company_and_preempted(
    runner: ModelRunner, beam_requests: list[Request], beam_oracle: dict[str, list[list[int]]]
) -> None:
    core = _core(runner, num_blocks=18, max_num_seqs=12, max_model_len=18 * 16)
    requests = [*_company(4), *beam_requests]
    _check_beams(beam_requests, _run(core, requests), beam_oracle)
    assert core.stats().num_preemptions > 0


def test_beams_with_few_tokens_a_step(
    runner: ModelRunner, beam_requests: list[Request], beam_oracle: dict[str, list[list[int]]]
) -> None:
    core = _core(runner, max_num_batched_tokens=3, enable_prefix_caching=False)
    chosen = [beam_requests[0], beam_requests[4]]
    _check_beams(chosen, _run(core, chosen), beam_oracle)
