"""An engine process around the suspicious fake runner, which checks itself after every step.

A prompt with POISON makes the step raise. `EngineConfig.model_path` is how many launches may be
under way at a time, `cache_dir` where it tells what it has (`looks.py`). Run as
`python -m chaos.soak.engine_process FD`, with `tests` on PYTHONPATH.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chaos.soak.looks import answer_signals
from fake_runner import VOCAB_SIZE, FailingHandle, FakeHandle, FakeRunner

from engine.batch import Batch
from engine.channel import BlockingChannel
from engine.config import EngineConfig, SchedulerConfig
from engine.core import EngineCore
from engine.info import EngineInfo
from engine.process import run
from engine.request import ChoiceOutput

POISON = VOCAB_SIZE
STEP_SECONDS = 0.002  # a model takes time; without that all is over before anybody gives up
LIMITS = SchedulerConfig(
    num_blocks=96,
    block_size=4,
    max_num_seqs=16,
    max_num_batched_tokens=64,
    max_model_len=96,
    max_drafts=4,
)


class SoakRunner(FakeRunner):
    """Forgets what it was asked."""

    def __init__(self, max_launches: int) -> None:
        super().__init__(LIMITS.num_blocks, LIMITS.block_size, LIMITS.max_num_seqs)
        self.max_launches = max_launches
        self.fault = _fault
        self.scheduler_config = LIMITS
        self.info = EngineInfo(
            architecture="fake",
            vocab_size=VOCAB_SIZE + 1,
            num_parameters=0,
            max_model_len=LIMITS.max_model_len,
            device="cpu",
            dtype="float32",
            kernels="none",
            num_blocks=LIMITS.num_blocks,
            block_size=LIMITS.block_size,
            max_num_seqs=LIMITS.max_num_seqs,
            max_num_batched_tokens=LIMITS.max_num_batched_tokens,
            load_seconds=0.0,
        )

    def launch(self, batch: Batch) -> FakeHandle | FailingHandle:
        self.batches.clear()
        time.sleep(STEP_SECONDS)
        return super().launch(batch)


def _fault(batch: Batch) -> Exception | None:
    return ValueError("poison") if any(POISON in row.token_ids for row in batch.rows) else None


def _checked(step: Callable[[EngineCore], list[ChoiceOutput]]) -> Callable[..., object]:
    def checked_step(core: EngineCore) -> list[ChoiceOutput]:
        outputs = step(core)
        core.scheduler.check_integrity()
        return outputs

    return checked_step


def load(config: EngineConfig, on_progress: Callable[[str, float], None]) -> SoakRunner:
    assert config.cache_dir is not None
    answer_signals(Path(config.cache_dir))
    return SoakRunner(int(config.model_path))


if __name__ == "__main__":
    logging.disable()  # of each poisoned request
    EngineCore.step = _checked(EngineCore.step)  # type: ignore[method-assign, assignment]
    sys.exit(run(BlockingChannel(socket.socket(fileno=int(sys.argv[1]))), load))
