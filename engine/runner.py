"""Runs batches on the device: ids in, sampled ids out. Keeps what a row carries from step to step.

`launch` only queues work; results are read to the host in `wait`. Knows rows and pages; which
request a row belongs to, and why it runs now, is the scheduler's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from engine.attention import Span, StepLayout
from engine.batch import Batch, RowOutput, ScheduledRow
from engine.bring_up import bring_up
from engine.checkpoint import ModelConfig, open_checkpoint
from engine.config import EngineConfig, SchedulerConfig
from engine.device import Target, free_memory, resolve_limits, resolve_target
from engine.graphs import CudaRecorder, DecodeGraphs, Recorder
from engine.info import EngineInfo
from engine.kernels import check_quantization, keeps_quantized, select
from engine.kernels.base import Kernels
from engine.kv_cache import KVCache
from engine.memory_profile import CudaMemory
from engine.models import Model, build_model
from engine.request import Failure, TokenLogprobs
from engine.sampler import Sampled, SamplingState, prompt_logprobs
from engine.staging import Staging
from engine.step_inputs import UNKNOWN, step_inputs
from engine.weight_memory import check_weights_fit, weight_bytes
from engine.weights import load_random_weights, load_weights

logger = logging.getLogger("octavo.engine")

# Prompt positions whose logits exist at once: each is a vocabulary's worth of numbers.
_PROMPT_SLICE = 64

_INVALID_PROMPT = Failure(
    "numerical_error",
    "the model produced invalid numbers (NaN or infinity) for this prompt; "
    "if it repeats, the weights are damaged or need --dtype float32",
)


class ModelRunner:
    """Implements `batch.Runner` for one model on one device."""

    def __init__(
        self,
        config: ModelConfig,
        model: Model,
        kernels: Kernels,
        limits: SchedulerConfig,
        target: Target,
        info: EngineInfo,
    ) -> None:
        """`model` has its weights already. Takes the memory for the pages."""
        self.info = info
        self.scheduler_config = limits
        self._config = config
        self.max_launches = target.max_launches
        self._model = model
        self._kernels = kernels
        self._target = target
        self._kv_cache = KVCache(
            config, limits.num_blocks, limits.block_size, target.device, target.dtype
        )
        # The last row is the padding's: nobody's.
        num_rows = limits.max_num_seqs + 1
        # [num_rows, max_blocks]; entries past a row's pages name the blank page.
        self._block_tables = torch.full(
            (num_rows, -(-limits.max_model_len // limits.block_size)),
            self._kv_cache.blank_block,
            dtype=torch.int32,
            device=target.device,
        )
        self._block_tables[-1, 0] = self._kv_cache.scratch_block
        self._last_token_ids = torch.zeros(num_rows, dtype=torch.int64, device=target.device)
        self._staging = Staging(target.device, target.max_launches + 1)
        self._graphs: DecodeGraphs | None = None
        self._sampling = SamplingState(limits.max_num_seqs, config.vocab_size, target.device)
        self._num_prompt_logprobs = [0] * limits.max_num_seqs

    @classmethod
    def load(cls, config: EngineConfig, on_progress: Callable[[str, float], None]) -> ModelRunner:
        """Read the model and take the memory. Raises CheckpointError and EngineStartError.

        Sets torch's number of threads, which is the whole process's.
        """
        started = time.monotonic()
        is_dummy = config.load_format == "dummy"
        checkpoint = open_checkpoint(Path(config.model_path), require_weights=not is_dummy)
        cache_dir = None if config.cache_dir is None else Path(config.cache_dir)
        is_quantized = checkpoint.is_quantized and not is_dummy
        target = resolve_target(config, lambda: is_quantized and keeps_quantized(cache_dir))
        torch.set_num_threads(target.num_threads)
        kernels = select(target.device, target.dtype, cache_dir=cache_dir)
        check_quantization(config.quantization, kernels, target.dtype_name)
        if target.device.type == "cpu" or config.kv_cache_memory is not None:
            # What does not fit now will not fit once the weights have taken their memory.
            resolve_limits(config, checkpoint.config, target)
        with torch.inference_mode():
            served = checkpoint.config.as_served(config.max_model_len)
            model = build_model(served, kernels, target.device)
            num_bytes = weight_bytes(
                model.weight_groups(),
                target.dtype.itemsize,
                config.quantization,
                None if is_dummy else checkpoint.weight_type,
            )
            check_weights_fit(num_bytes, *free_memory(target.device))
            if is_dummy:
                load_random_weights(
                    model, target.device, target.dtype, on_progress, config.quantization
                )
            else:
                load_weights(
                    model,
                    checkpoint,
                    target.device,
                    target.dtype,
                    on_progress,
                    config.quantization,
                )
            logger.info("%s kernels; %s", kernels.describe(), target.reason)

            def new_runner(limits: SchedulerConfig) -> ModelRunner:
                info = EngineInfo(
                    architecture=checkpoint.config.architecture,
                    vocab_size=checkpoint.config.vocab_size,
                    num_parameters=checkpoint.num_parameters,
                    max_model_len=limits.max_model_len,
                    device=str(target.device),
                    dtype=target.dtype_name,
                    kernels=kernels.describe(),
                    num_blocks=limits.num_blocks,
                    block_size=limits.block_size,
                    max_num_seqs=limits.max_num_seqs,
                    max_num_batched_tokens=limits.max_num_batched_tokens,
                    load_seconds=time.monotonic() - started,
                )
                return cls(checkpoint.config, model, kernels, limits, target, info)

            # After the weights, whose memory is no longer free now.
            if target.device.type == "cuda":
                return bring_up(
                    new_runner,
                    config,
                    checkpoint.config,
                    target,
                    CudaMemory(target.device),
                    CudaRecorder,
                    on_progress,
                )
            return new_runner(resolve_limits(config, checkpoint.config, target))

    @torch.inference_mode()
    def launch(self, batch: Batch) -> StepHandle:
        """See `batch.Runner.launch`."""
        for start in batch.starts:
            self._sampling.start(start)
            self._num_prompt_logprobs[start.row] = start.sampling.prompt_logprobs or 0
        inputs = step_inputs(batch, self._kv_cache.block_size, self._block_tables.shape[1])
        graphs = self._graphs if _is_decode(batch.rows) else None
        size = graphs.size_for(len(batch.rows)) if graphs is not None else None
        if size is not None:
            inputs.pad(size, padding_row=self.scheduler_config.max_num_seqs)
        *pages, tokens, places, rows = self._staging.send(*inputs.columns)
        self._arrange_pages(*pages)
        if not batch.rows:
            return StepHandle([], None, [])
        tokens = tokens.view(3, -1)
        prompts: list[_PromptPart] = []
        if graphs is not None and size is not None:
            hidden = graphs.replay(tokens)
        else:
            spans = _spans(batch.rows)
            hidden = self._forward(tokens, spans)
            prompts = self._prompt_parts(batch.rows, spans, hidden)
        sampled = None
        if inputs.sample_places:
            logits = self._model.compute_logits(hidden.index_select(0, places))
            sampled = self._sampling.sample(logits, inputs.sample_rows, inputs.sample_positions)
            # Read by launches that do not wait for this one; after drafts, the next one does.
            self._last_token_ids[rows] = sampled.token_ids
        return StepHandle(batch.rows, sampled, prompts)

    def _prompt_parts(
        self, rows: list[ScheduledRow], spans: list[Span], hidden: Tensor
    ) -> list[_PromptPart]:
        return [
            _PromptPart(
                index=i,
                hidden=hidden[span.first_token : span.first_token + len(row.prompt_targets)],
                targets=row.prompt_targets,
                num_top=self._num_prompt_logprobs[row.row],
                model=self._model,
            )
            for i, (row, span) in enumerate(zip(rows, spans, strict=True))
            if row.prompt_targets
        ]

    @property
    def can_record(self) -> bool:
        """Whether the kernels let `record_decoding` be called."""
        return self._kernels.can_be_recorded

    def record_decoding(self, recorder: Recorder, sizes: list[int]) -> None:
        """Have steps in which every row decodes replayed from now on, padded to one of `sizes`.

        Memory must be left on the device.
        """
        assert self.can_record
        with torch.inference_mode():
            output = torch.zeros(
                self._config.hidden_size, dtype=self._target.dtype, device=self._target.device
            )
            padding_row = self.scheduler_config.max_num_seqs
            self._graphs = DecodeGraphs(self._forward, recorder, sizes, padding_row, output)

    def _arrange_pages(
        self,
        started_rows: Tensor,
        copy_sources: Tensor,
        copy_targets: Tensor,
        places: Tensor,
        block_ids: Tensor,
        empty: Tensor,
    ) -> None:
        """Copy pages, enter new ones into the block tables, clear those that nothing is in yet.

        Pages of more than 2 GiB are cleared layer by layer: not where nobody looks.
        """
        if len(started_rows):
            self._block_tables.index_fill_(0, started_rows, self._kv_cache.blank_block)
        if len(copy_sources):  # first: a page to copy from may be somebody's new one
            self._kv_cache.copy_blocks(copy_sources, copy_targets)
        if len(places):
            self._block_tables.view(-1).index_copy_(0, places, block_ids.to(torch.int32))
        if len(empty) and self._kernels.reads_whole_pages:
            self._kv_cache.clear_blocks(empty)

    def _forward(self, tokens: Tensor, spans: list[Span]) -> Tensor:
        """Hidden states [num_tokens, hidden_size]; `tokens` [3, num_tokens] are ids, rows and
        positions. Waits for nothing, and reads `tokens` on the device only."""
        token_ids, rows, positions = tokens.unbind(0)
        token_ids = torch.where(token_ids == UNKNOWN, self._last_token_ids[rows], token_ids)
        layout = StepLayout(
            spans=spans,
            rows=rows,
            positions=positions,
            block_tables=self._block_tables,
            blank_block=self._kv_cache.blank_block,
            block_size=self._kv_cache.block_size,
            num_heads=self._config.num_heads,
            num_kv_heads=self._config.num_kv_heads,
            head_dim=self._config.head_dim,
        )
        return self._model.forward(token_ids, self._kernels.plan(layout), self._kv_cache)


@dataclass(frozen=True, slots=True)
class _PromptPart:
    """Positions of one scheduled row whose log-probabilities are wanted: hidden [n, hidden_size]"""

    index: int
    hidden: Tensor
    targets: list[int]
    num_top: int
    model: Model

    def read(self) -> list[TokenLogprobs] | None:
        """None when the logits are not numbers."""
        entries: list[TokenLogprobs] = []
        for first in range(0, len(self.targets), _PROMPT_SLICE):
            part = slice(first, first + _PROMPT_SLICE)
            logits = self.model.compute_logits(self.hidden[part])
            if not logits.isfinite().all():
                return None
            entries += prompt_logprobs(logits, self.targets[part], self.num_top)
        return entries


class StepHandle:
    """Implements `batch.Handle`."""

    def __init__(
        self, rows: list[ScheduledRow], sampled: Sampled | None, prompts: list[_PromptPart]
    ) -> None:
        self._rows = rows
        self._sampled = sampled
        self._prompts = prompts

    @torch.inference_mode()
    def wait(self) -> list[RowOutput]:
        """See `batch.Handle.wait`. Log-probabilities of prompts are computed here: the next launch
        does not need them."""
        outputs = [RowOutput(token_ids=[]) for _ in self._rows]
        if self._sampled is not None:
            samples = zip(*self._sampled.wait(), strict=True)
            for output, row in zip(outputs, self._rows, strict=True):
                if row.sample:
                    _keep(output, row, list(islice(samples, row.num_drafts + 1)))
        for part in self._prompts:
            output = outputs[part.index]
            output.prompt_logprobs = part.read()
            if output.prompt_logprobs is None:
                output.error = _INVALID_PROMPT
        return outputs


def _keep(
    output: RowOutput,
    row: ScheduledRow,
    samples: list[tuple[int, TokenLogprobs | None, Failure | None]],
) -> None:
    """The tokens drawn for a row, up to the first one that is not what was guessed."""
    drafts = row.token_ids[len(row.token_ids) - row.num_drafts :]
    kept_logprobs: list[TokenLogprobs] = []
    for (token_id, logprobs, error), draft in zip(samples, [*drafts, None], strict=True):
        if error is not None:
            output.error = error
            return
        output.token_ids.append(token_id)
        if logprobs is not None:
            kept_logprobs.append(logprobs)
        if token_id != draft:
            break
    output.logprobs = kept_logprobs or None


def _is_decode(rows: list[ScheduledRow]) -> bool:
    """Whether every row computes one token, and nothing but the next one is wanted of it."""
    return bool(rows) and all(row.num_tokens == 1 and not row.prompt_targets for row in rows)


def _spans(rows: list[ScheduledRow]) -> list[Span]:
    spans = []
    first_token = 0
    for row in rows:
        spans.append(Span(row.row, first_token, row.num_tokens, row.start))
        first_token += row.num_tokens
    return spans
