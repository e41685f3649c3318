"""The engine's tokens against transformers, on small random models.

No two programs round alike, so tokens may differ where two of them are nearly as good. What is
checked of each token is its regret: how much better, in the oracle's eyes, the best token for the
same text before it would have been. Draws with a temperature have the noise of the engine's own
definition added to the oracle's logits, and are checked in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.gpu.driving import Engine, Setup
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.workloads import Job
from engine.sampler.gumbel import choice_stream, log_exponential, noise_keys

# The largest regret, in standard deviations of the oracle's logits (over the temperature where
# there is one), and the least share of tokens without any.
_TOLERANCES = {"float32": (2e-3, 0.99), "bfloat16": (0.4, 0.85)}
# Wide enough that a wrong operation changes most tokens, not so wide that all attention is on one.
_INITIALIZER_RANGE = 0.08


@dataclass(frozen=True)
class Verdict:
    """On all tokens of one run, of which `num_best` are the oracle's own. `worst` regret and
    `tolerance` in the same unit."""

    num_tokens: int
    num_best: int
    worst: float
    tolerance: float
    min_best: float

    @property
    def is_right(self) -> bool:
        return self.worst <= self.tolerance and self.num_best >= self.min_best * self.num_tokens


def save_model(shape: str, folder: Path) -> Path:
    """A random model of that shape in float32, with weights; its folder."""
    path = folder / shape
    fields = dict(SHAPES[shape])
    family = "Qwen3Config" if fields["model_type"] == "qwen3" else "LlamaConfig"
    for name in ("architectures", "model_type", "torch_dtype"):
        del fields[name]
    config = getattr(transformers, family)(**fields, initializer_range=_INITIALIZER_RANGE)
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms: not all ones
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path


class Oracle:
    """transformers in float32, its weights rounded to the engine's number format first."""

    def __init__(self, model: Path, device: torch.device, dtype: str) -> None:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
        self._model = loaded.to(device).float().eval()
        self._device = device
        self._tolerance, self._min_best = _TOLERANCES[dtype]

    @torch.inference_mode()
    def judge(self, jobs: list[Job], outputs: list[list[int]], temperature: float) -> Verdict:
        """`outputs[i]` answers `jobs[i]` and was drawn with seed i."""
        num_best, worst, spread = 0, 0.0, 0.0
        for seed, (job, output) in enumerate(zip(jobs, outputs, strict=True)):
            assert len(output) == job.output_len, "an answer of the wrong length"
            first = len(job.prompt_token_ids)
            text = torch.tensor([job.prompt_token_ids + output[:-1]], device=self._device)
            scores = self._model(text, use_cache=False).logits[0, first - 1 :].float()
            spread = max(spread, float(scores.std()) / (temperature or 1.0))
            if temperature:
                ids = torch.arange(scores.shape[1], dtype=torch.int32, device=self._device)
                stream = np.full(len(output), choice_stream(seed, 0), dtype=np.uint64)
                keys = noise_keys(stream, np.arange(first, first + len(output)))
                noise = log_exponential(ids[None], torch.from_numpy(keys).to(self._device))
                scores = scores / temperature - noise
            chosen = scores.gather(1, torch.tensor(output, device=self._device)[:, None])
            regrets = scores.amax(dim=1) - chosen[:, 0]
            num_best += int((regrets == 0).sum())
            worst = max(worst, float(regrets.max()))
        return Verdict(
            num_tokens=sum(map(len, outputs)),
            num_best=num_best,
            worst=worst,
            tolerance=self._tolerance * spread,
            min_best=self._min_best,
        )


def make_jobs(vocab_size: int, is_quick: bool) -> list[Job]:
    """Answers of unequal lengths to prompts of unequal lengths, some of which begin alike."""
    random = Random(3)  # noqa: S311
    count, longest = (6, 60) if is_quick else (40, 700)
    shared = random.choices(range(vocab_size), k=33)
    jobs = []
    for i in range(count):
        prompt = random.choices(range(vocab_size), k=random.randint(1, longest))
        output_len = random.randint(1, 40 if is_quick else 100)
        jobs.append(Job(shared + prompt if i % 3 == 0 else prompt, output_len))
    return jobs


@dataclass(frozen=True)
class Comparison:
    """One way of launching, judged, and how many answers are those of plain launches.

    `num_preemptions` so far of its engine.
    """

    name: str
    verdict: Verdict
    num_equal: int
    num_answers: int
    num_preemptions: int


def check_tokens(
    model: Path, shape: str, device: torch.device, dtype: str, is_quick: bool
) -> list[Comparison]:
    """Plain and overlapped launches, greedy and with a temperature; and with so few pages that
    requests are preempted and computed again."""
    jobs = make_jobs(SHAPES[shape]["vocab_size"], is_quick)
    oracle = Oracle(model, device, dtype)
    comparisons = []
    plain: dict[float, list[list[int]]] = {}
    for name, max_launches, num_pages in (
        ("plain", 1, None),
        ("overlapped", 2, None),
        ("overlapped, few pages", 2, 13 if is_quick else 120),
    ):
        setup = Setup(
            device=device,
            dtype=dtype,
            max_num_seqs=4 if is_quick else 24,
            max_model_len=160 if is_quick else 1024,
            max_launches=max_launches,
            kv_cache_memory=_page_bytes(shape, dtype) * (num_pages or 4096),
            load_format="auto",
        )
        engine = Engine(model, setup)
        for temperature in (0.0, 0.8):
            outputs = list(engine.run(jobs, temperature).outputs.values())
            equal = plain.setdefault(temperature, outputs)
            num_equal = sum(a == b for a, b in zip(outputs, equal, strict=True))
            verdict = oracle.judge(jobs, outputs, temperature)
            title = f"{name}, temperature {temperature:g}"
            preemptions = engine.core.stats().num_preemptions
            comparisons.append(Comparison(title, verdict, num_equal, len(jobs), preemptions))
    return comparisons


def _page_bytes(shape: str, dtype: str) -> int:
    fields = SHAPES[shape]
    per_token = 2 * fields["num_key_value_heads"] * fields["head_dim"]
    return int(16 * fields["num_hidden_layers"] * per_token * getattr(torch, dtype).itemsize)
