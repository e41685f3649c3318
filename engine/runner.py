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
from engine.batch import Batch, RowOutput, RowStart, ScheduledRow
from engine.checkpoint import ModelConfig, open_checkpoint
from engine.checkpoint.grouped import GROUP_SIZE
from engine.config import EngineConfig, SchedulerConfig
from engine.device import Target, resolve_limits, resolve_target
from engine.errors import EngineStartError
from engine.kernels import keeps_quantized, select
from engine.kernels.base import Kernels
from engine.kv_cache import KVCache
from engine.messages import EngineInfo
from engine.models import Model, build_model
from engine.request import Failure, TokenLogprobs
from engine.sampler import Sampled, SamplingState, prompt_logprobs
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
        self._model = model
        self._kernels = kernels
        self._device = target.device
        self._kv_cache = KVCache(
            config, limits.num_blocks, limits.block_size, target.device, target.dtype
        )
        # [max_num_seqs, max_blocks]; entries past a row's pages name the blank page.
        self._block_tables = torch.full(
            (limits.max_num_seqs, -(-limits.max_model_len // limits.block_size)),
            self._kv_cache.blank_block,
            dtype=torch.int32,
            device=target.device,
        )
        self._last_token_ids = torch.zeros(
            limits.max_num_seqs, dtype=torch.int64, device=target.device
        )
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
        if config.quantization in ("int8", "int4") and not kernels.takes_grouped(GROUP_SIZE):
            raise EngineStartError(
                f"quantization {config.quantization!r} needs a CPU with AVX2, a C++ compiler and "
                f"dtype bfloat16; here are {kernels.describe()} kernels and {target.dtype_name}"
            )
        with torch.inference_mode():
            model = build_model(checkpoint.config, kernels, target.device)
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
            # After the weights, whose memory is no longer free now.
            limits = resolve_limits(config, checkpoint.config, target)
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

    @torch.inference_mode()
    def launch(self, batch: Batch) -> StepHandle:
        """See `batch.Runner.launch`."""
        for start in batch.starts:
            self._start_row(start)
        if batch.copies:  # before pages are taken: one to copy from may be somebody's new one
            self._kv_cache.copy_blocks(batch.copies)
        self._take_pages(batch.rows)
        if not batch.rows:
            return StepHandle([], None, [])
        spans = _spans(batch.rows)
        hidden = self._forward(batch.rows, spans)
        prompts = [
            _PromptPart(
                index=i,
                hidden=hidden[span.first_token : span.first_token + len(row.prompt_targets)],
                targets=row.prompt_targets,
                num_top=self._num_prompt_logprobs[row.row],
                model=self._model,
            )
            for i, (row, span) in enumerate(zip(batch.rows, spans, strict=True))
            if row.prompt_targets
        ]
        return StepHandle(batch.rows, self._sample(hidden, batch.rows, spans), prompts)

    def _start_row(self, start: RowStart) -> None:
        self._block_tables[start.row] = self._kv_cache.blank_block
        self._sampling.start(start)
        self._num_prompt_logprobs[start.row] = start.sampling.prompt_logprobs or 0

    def _take_pages(self, rows: list[ScheduledRow]) -> None:
        """Enter new pages into the block tables, and clear those that nothing is in yet."""
        max_blocks = self._block_tables.shape[1]
        places: list[int] = []
        block_ids: list[int] = []
        empty: list[int] = []
        for row in rows:
            for i, block_id in enumerate(row.new_block_ids, start=row.num_known_blocks):
                places.append(row.row * max_blocks + i)
                block_ids.append(block_id)
                if i * self._kv_cache.block_size >= row.start:
                    empty.append(block_id)
        if places:
            patch = torch.tensor([places, block_ids], device=self._device)
            self._block_tables.view(-1)[patch[0]] = patch[1].to(torch.int32)
        if empty:
            self._kv_cache.clear_blocks(empty)

    def _forward(self, rows: list[ScheduledRow], spans: list[Span]) -> Tensor:
        """Hidden states [num_tokens, hidden_size] of all tokens of the step."""
        token_ids: list[int] = []
        token_rows: list[int] = []
        positions: list[int] = []
        unknown: list[int] = []
        for row in rows:
            token_ids += row.token_ids
            if len(row.token_ids) < row.num_tokens:
                unknown.append(len(token_ids))
                token_ids.append(0)
            token_rows += [row.row] * row.num_tokens
            positions += range(row.start, row.start + row.num_tokens)
        tokens = torch.tensor([token_ids, token_rows, positions], device=self._device)
        if unknown:
            places = torch.tensor(unknown, device=self._device)
            tokens[0, places] = self._last_token_ids[tokens[1, places]]
        layout = StepLayout(
            spans=spans,
            rows=tokens[1],
            positions=tokens[2],
            block_tables=self._block_tables,
            blank_block=self._kv_cache.blank_block,
            block_size=self._kv_cache.block_size,
            num_heads=self._config.num_heads,
            num_kv_heads=self._config.num_kv_heads,
            head_dim=self._config.head_dim,
        )
        return self._model.forward(tokens[0], self._kernels.plan(layout), self._kv_cache)

    def _sample(
        self, hidden: Tensor, rows: list[ScheduledRow], spans: list[Span]
    ) -> Sampled | None:
        """Draw the tokens of each row that wants any, and remember them for the row's next step."""
        row_ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        for row, span in zip(rows, spans, strict=True):
            num_samples = row.num_drafts + 1 if row.sample else 0
            row_ids += [span.row] * num_samples
            positions += range(span.context_len - num_samples + 1, span.context_len + 1)
            end = span.first_token + span.num_tokens
            places += range(end - num_samples, end)
        if not places:
            return None
        where = torch.tensor([places, row_ids], device=self._device)
        logits = self._model.compute_logits(hidden.index_select(0, where[0]))
        sampled = self._sampling.sample(logits, row_ids, positions)
        # Read by launches that do not wait for this one; after drafts, the next one does.
        self._last_token_ids[where[1]] = sampled.token_ids
        return sampled


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


def _spans(rows: list[ScheduledRow]) -> list[Span]:
    spans = []
    first_token = 0
    for row in rows:
        spans.append(Span(row.row, first_token, row.num_tokens, row.start))
        first_token += row.num_tokens
    return spans
