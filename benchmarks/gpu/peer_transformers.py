"""transformers' continuous batching as a peer, with made-up weights. Imports nothing of ours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.generation import ContinuousBatchingConfig

from benchmarks.gpu.workloads import Job

_STOP_SECONDS = 30.0


class Transformers:
    """`is_tuned`: with CUDA graphs, asynchronous batching and compilation, which it leaves off by
    itself where it finds no flash attention."""

    def __init__(self, model: Path, device: torch.device, is_tuned: bool) -> None:
        """`model` is a folder with a config."""
        config = AutoConfig.from_pretrained(model)
        with device:
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, attn_implementation="sdpa"
            ).eval()
        self._device = device
        self._is_tuned = is_tuned

    @contextmanager
    def ready(self, temperature: float) -> Iterator[None]:
        """Its pages and its thread are there, its graphs are captured."""
        config = ContinuousBatchingConfig()
        if self._is_tuned:
            config.use_cuda_graph = True
            config.use_async_batching = True
            config.default_compile_level = 1
        if self._device.type == "cpu":  # it would take most of the memory
            config.num_blocks, config.max_batch_tokens = 64, 256
        generation = GenerationConfig(
            do_sample=temperature > 0,
            temperature=temperature or None,
            eos_token_id=-1,
            pad_token_id=0,
            max_new_tokens=1,
        )
        with self._model.continuous_batching_context_manager(
            generation_config=generation,
            continuous_batching_config=config,
            block=True,
            timeout=_STOP_SECONDS,
        ) as self._manager:
            yield

    def run(self, jobs: list[Job], limit_s: float) -> tuple[int, float, bool]:
        """See `Peer.run`. RuntimeError when a request fails or its thread ends."""
        started = time.perf_counter()
        for job in jobs:
            self._manager.add_request(job.prompt_token_ids, max_new_tokens=job.output_len)
        num_tokens, num_done = 0, 0
        while num_done < len(jobs):
            if time.perf_counter() - started > limit_s:
                break
            result = self._manager.get_result(timeout=1)
            if result is None:
                if not self._manager.is_running():
                    raise RuntimeError("its generation thread has ended")
            elif result.is_finished():
                if result.error is not None:
                    raise RuntimeError(result.error)
                num_tokens += len(result.generated_tokens)
                num_done += 1
        return num_tokens, time.perf_counter() - started, num_done == len(jobs)

    def describe(self) -> str:
        settings = self._manager.continuous_batching_config
        names = ("use_cuda_graph", "use_async_batching", "default_compile_level")
        chosen = json.dumps({name: getattr(settings, name) for name in names})
        return f"attention {self._model.config._attn_implementation}, {chosen}"
