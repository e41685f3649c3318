"""Octavo's engine in this process, without server and HTTP: jobs in, tokens and times out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

import torch

from benchmarks.gpu.workloads import Job
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import Request, SamplingParams
from engine.runner import ModelRunner


@dataclass(frozen=True)
class Setup:
    """What an engine is to be. `max_launches` above one launches a step before the last one's
    tokens are known; None: as the runner itself chooses, and as it is served."""

    device: torch.device
    dtype: str
    max_num_seqs: int
    max_model_len: int
    max_launches: int | None = None
    kv_cache_memory: int | None = None
    load_format: str = "dummy"


@dataclass
class Run:
    """What came of some jobs. `arrivals` has the seconds from the start at which each of a
    request's tokens came. `is_cut_off`: the time was up before the end."""

    seconds: float = 0.0
    outputs: dict[str, list[int]] = field(default_factory=dict)
    arrivals: dict[str, list[float]] = field(default_factory=dict)
    is_cut_off: bool = False

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.outputs.values()))

    @property
    def output_rate(self) -> float:
        return self.num_tokens / self.seconds

    def steady_rate(self) -> float | None:
        """Tokens a second from when all requests decode to when the first one ends."""
        if not all(self.arrivals.values()):
            return None
        begin = max(times[0] for times in self.arrivals.values())
        end = min(times[-1] for times in self.arrivals.values())
        tokens = sum(begin < t <= end for times in self.arrivals.values() for t in times)
        return tokens / (end - begin) if end > begin and tokens else None

    def intervals(self) -> list[float]:
        """Seconds between two tokens of one request, in order of length."""
        return sorted(b - a for times in self.arrivals.values() for a, b in pairwise(times))


class Engine:
    """A loaded model and a scheduler over it."""

    def __init__(self, model: Path, setup: Setup) -> None:
        config = EngineConfig(
            str(model),
            device=setup.device.type,
            dtype=setup.dtype,
            load_format=setup.load_format,
            max_num_seqs=setup.max_num_seqs,
            max_model_len=setup.max_model_len,
            kv_cache_memory=setup.kv_cache_memory,
            max_drafts=0,
        )
        self.runner = ModelRunner.load(config, lambda phase, fraction: None)
        self.info = self.runner.info
        self.max_launches = setup.max_launches or self.runner.max_launches
        self.core = EngineCore(self.runner, self.runner.scheduler_config, self.max_launches)
        self._ids = count()

    def describe(self) -> str:
        info = self.info
        return (
            f"{info.kernels} kernels, {info.dtype}, {info.num_parameters / 1e9:.3g} G parameters, "
            f"{info.num_blocks} pages of {info.block_size}, loaded in {info.load_seconds:.1f} s, "
            f"up to {self.max_launches} launches under way"
        )

    def add(self, jobs: list[Job], temperature: float) -> list[str]:
        """Their request ids. A request's noise depends on its place among `jobs` only."""
        request_ids = []
        for seed, job in enumerate(jobs):
            sampling = SamplingParams(temperature=temperature, max_tokens=job.output_len, seed=seed)
            request_ids.append(f"r{next(self._ids)}")
            self.core.add(Request(request_ids[-1], job.prompt_token_ids, sampling))
        return request_ids

    def run(self, jobs: list[Job], temperature: float, limit_s: float = float("inf")) -> Run:
        """All jobs at once to their ends, or until the time is up."""
        run = Run()
        started = time.perf_counter()
        for request_id in self.add(jobs, temperature):
            run.outputs[request_id], run.arrivals[request_id] = [], []
        while self.core.has_work:
            outputs = self.core.step()
            run.seconds = time.perf_counter() - started
            for output in outputs:
                assert output.error is None, output.error
                run.outputs[output.request_id] += output.token_ids
                run.arrivals[output.request_id] += [run.seconds] * len(output.token_ids)
            if run.seconds > limit_s:
                run.is_cut_off = True
                self.abort(list(run.outputs))
        return run

    def abort(self, request_ids: list[str]) -> None:
        """End them, and what is under way for them. Unknown and finished ones are ignored."""
        for request_id in request_ids:
            self.core.abort(request_id)
        while self.core.has_work:
            self.core.step()
