"""The engine's numbers, in float32, against `transformers` reading the same GGUF file.

Greedy tokens must be the oracle's for as long as its two best logits differ by more than
`MARGIN`: alone, in company, cached, preempted, chunked. Prompt log-probabilities must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import EngineConfig, Request, SamplingParams, open_checkpoint
from engine.core import EngineCore
from engine.request import ChoiceOutput
from engine.runner import ModelRunner
from server.tokenizer import load_tokenizer

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
def oracle(builtin_model: Path) -> Oracle:
    tokenizer = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        builtin_model.parent, gguf_file=builtin_model.name, dtype=torch.float32
    )
    result = Oracle([tokenizer.encode(prompt) for prompt in PROMPTS], [], [], [])
    with torch.inference_mode():
        for prompt in result.prompts:
            output = model(torch.tensor([prompt]), use_cache=True)
            logprobs = output.logits[0].log_softmax(-1)
            targets = torch.tensor(prompt[1:])
            result.prompt_logprobs.append(logprobs[:-1].gather(1, targets[:, None])[:, 0].tolist())
            token_ids: list[int] = []
            margins: list[float] = []
            for _ in range(NUM_TOKENS):
                best = output.logits[0, -1].topk(2)
                token_ids.append(int(best.indices[0]))
                margins.append(float(best.values[0] - best.values[1]))
                output = model(
                    torch.tensor([[token_ids[-1]]]),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
            unsure = [i for i, margin in enumerate(margins) if margin <= MARGIN]
            result.token_ids.append(token_ids)
            result.num_certain.append(unsure[0] if unsure else NUM_TOKENS)
    assert sum(result.num_certain) > 0.8 * NUM_TOKENS * len(PROMPTS), "prompts say too little"
    return result


@pytest.fixture(scope="module")
def runner(builtin_model: Path) -> Iterator[ModelRunner]:
    config = EngineConfig(
        model_path=str(builtin_model), device="cpu", dtype="float32", kv_cache_memory=256 << 20
    )
    yield ModelRunner.load(config, lambda phase, fraction: None)


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


def _greedy(oracle: Oracle, which: int, max_tokens: int = NUM_TOKENS) -> Request:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    return Request(f"p{which}", oracle.prompts[which], sampling)


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
            max_tokens=10 + 5 * i,
            logprobs=(None, 3)[i % 2],
        )
        requests.append(Request(f"other{i}", prompt, sampling))
    return requests


def _check(oracle: Oracle, which: int, token_ids: list[int]) -> None:
    certain = oracle.num_certain[which]
    assert len(token_ids) == NUM_TOKENS
    assert token_ids[:certain] == oracle.token_ids[which][:certain], PROMPTS[which]


def test_alone(oracle: Oracle, runner: ModelRunner) -> None:
    for which in range(len(PROMPTS)):
        core = _core(runner, enable_prefix_caching=False)
        _check(oracle, which, _tokens(_run(core, [_greedy(oracle, which)])[f"p{which}"]))


def test_among_others(oracle: Oracle, runner: ModelRunner) -> None:
    for which in (0, 3, 6):
        core = _core(runner)
        outputs = _run(core, [*_company(9), _greedy(oracle, which), *_company(15)[9:]])
        _check(oracle, which, _tokens(outputs[f"p{which}"]))


def test_all_together_then_all_cached(oracle: Oracle, runner: ModelRunner) -> None:
    core = _core(runner)
    requests = [_greedy(oracle, which) for which in range(len(PROMPTS))]
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
    outputs = _run(core, [_greedy(oracle, which) for which in range(len(PROMPTS))])
    assert core.stats().num_preemptions >= 3
    for which in range(len(PROMPTS)):
        _check(oracle, which, _tokens(outputs[f"p{which}"]))


@pytest.mark.parametrize("budget", [5, 13])
def test_chunked_in_odd_sizes(oracle: Oracle, runner: ModelRunner, budget: int) -> None:
    core = _core(runner, max_num_batched_tokens=budget, enable_prefix_caching=False)
    outputs = _run(core, [_greedy(oracle, which) for which in (1, 3, 6)])
    for which in (1, 3, 6):
        _check(oracle, which, _tokens(outputs[f"p{which}"]))


@pytest.mark.parametrize("budget", [512, 11])
def test_prompt_logprobs(oracle: Oracle, runner: ModelRunner, budget: int) -> None:
    core = _core(runner, max_num_batched_tokens=budget)
    for _ in range(2):  # the second time with a warm prefix cache, which must not be read
        requests = [
            replace(
                _greedy(oracle, which, max_tokens=0),
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


def _seeded(oracle: Oracle, which: int) -> Request:
    sampling = SamplingParams(temperature=1.0, seed=1234 + which, max_tokens=NUM_TOKENS)
    return Request(f"p{which}", oracle.prompts[which], sampling, n=2)


def _texts(outputs: list[ChoiceOutput]) -> dict[int, list[int]]:
    return {
        index: [t for output in outputs if output.index == index for t in output.token_ids]
        for index in (0, 1)
    }


def test_a_seeded_request_is_the_same_alone_in_company_and_after_a_restart(
    oracle: Oracle, runner: ModelRunner, builtin_model: Path
) -> None:
    for which in (1, 5):
        alone = _texts(_run(_core(runner), [_seeded(oracle, which)])[f"p{which}"])
        requests = [*_company(15), _seeded(oracle, which)]
        assert _texts(_run(_core(runner), requests)[f"p{which}"]) == alone
        assert alone[0] != alone[1]
        assert len(alone[0]) == NUM_TOKENS
        config = EngineConfig(
            model_path=str(builtin_model), device="cpu", dtype="float32", kv_cache_memory=64 << 20
        )
        restarted = ModelRunner.load(config, lambda phase, fraction: None)
        assert _texts(_run(_core(restarted), [_seeded(oracle, which)])[f"p{which}"]) == alone
