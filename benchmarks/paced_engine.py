"""An engine process without a model: a token for each running choice every so many milliseconds.

The real loop, core and channel around a runner that waits; `EngineConfig.model_path` is the
number of milliseconds. For `EngineClient(module="paced_engine")`, with this folder on PYTHONPATH.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable

from engine.batch import Batch, RowOutput
from engine.channel import BlockingChannel
from engine.config import EngineConfig, SchedulerConfig
from engine.info import EngineInfo
from engine.process import run
from engine.request import TokenLogprobs

VOCAB_SIZE = 49152
CATCH_UP_SECONDS = 0.25
LIMITS = SchedulerConfig(
    num_blocks=16384,
    block_size=16,
    max_num_seqs=256,
    max_num_batched_tokens=16384,
    max_model_len=8192,
)


class PacedHandle:
    def __init__(self, outputs: list[RowOutput]) -> None:
        self._outputs = outputs

    def wait(self) -> list[RowOutput]:
        return self._outputs


class PacedRunner:
    """Counts on from the last token; steps begin `step_seconds` apart on average: what the machine
    made late is caught up with, as far as it is no more than `CATCH_UP_SECONDS`."""

    max_launches = 1

    def __init__(self, step_seconds: float) -> None:
        self.scheduler_config = LIMITS
        self.info = EngineInfo(
            architecture="paced",
            vocab_size=VOCAB_SIZE,
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
        self._step_seconds = step_seconds
        self._next_step = 0.0
        self._num_logprobs: list[int | None] = [None] * LIMITS.max_num_seqs

    def launch(self, batch: Batch) -> PacedHandle:
        now = time.monotonic()
        time.sleep(max(0.0, self._next_step - now))
        earliest = max(self._next_step, now - CATCH_UP_SECONDS)
        self._next_step = earliest + self._step_seconds
        for start in batch.starts:
            self._num_logprobs[start.row] = start.sampling.logprobs
        outputs = []
        for row in batch.rows:
            if row.sample:
                token_id = (row.token_ids[-1] + 1) % VOCAB_SIZE
                outputs.append(RowOutput([token_id], self._logprobs(row.row, token_id)))
            else:
                outputs.append(RowOutput([]))
        return PacedHandle(outputs)

    def _logprobs(self, row: int, token_id: int) -> list[TokenLogprobs] | None:
        count = self._num_logprobs[row]
        if count is None:
            return None
        top_ids = [(token_id + k) % VOCAB_SIZE for k in range(count)]
        return [TokenLogprobs(-0.123456, 1, top_ids, [-0.123456 - k for k in range(count)])]


def load(config: EngineConfig, on_progress: Callable[[str, float], None]) -> PacedRunner:
    return PacedRunner(float(config.model_path) / 1e3)


if __name__ == "__main__":
    sys.exit(run(BlockingChannel(socket.socket(fileno=int(sys.argv[1]))), load))
