"""vLLM as a peer, where it can be imported; made-up weights. Imports nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm import LLM, SamplingParams

from benchmarks.gpu.workloads import Job


class Vllm:
    """With its own defaults: graphs, compilation, asynchronous scheduling."""

    def __init__(self, model: Path, max_num_seqs: int, is_quick: bool) -> None:
        """`model` is a folder with a config. `is_quick` starts faster and runs slower."""
        self._llm = LLM(
            model=str(model),
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=4096,
            max_num_seqs=max_num_seqs,
            enforce_eager=is_quick,
        )
        self._temperature = 0.0

    @contextmanager
    def ready(self, temperature: float) -> Iterator[None]:
        self._temperature = temperature
        yield

    def run(self, jobs: list[Job], limit_s: float) -> tuple[int, float, bool]:
        """(tokens, seconds, True): it cannot be cut off."""
        sampling = [
            SamplingParams(
                temperature=self._temperature,
                max_tokens=job.output_len,
                ignore_eos=True,
                detokenize=False,
            )
            for job in jobs
        ]
        prompts = [{"prompt_token_ids": job.prompt_token_ids} for job in jobs]
        started = time.perf_counter()
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        return sum(len(output.outputs[0].token_ids) for output in outputs), seconds, True

    def describe(self) -> str:
        return "its own defaults"
