"""The real engine process, whose runner obeys orders to fail: the last tokens of the vocabulary.

An order counts when its token is computed. Where the environment's FAULTY_LOADING names a file, the
process removes it when it has loaded half of the weights, and sends itself the signal whose number
was in it. Run as `python -m faulty_engine_process FD`, with this folder on PYTHONPATH.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from engine.batch import Batch, Handle
from engine.channel import BlockingChannel
from engine.config import EngineConfig
from engine.process import LoadedRunner, load_model, run

NUM_ORDERS = 3
POISON, DIE, LOSE_MEMORY = range(NUM_ORDERS)  # from the end of the vocabulary
LARGEST_STEP = 6  # tokens, while memory is lost
NUM_POOR_STEPS = 40


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class FaultyRunner:
    """The real runner, but for what it is told by tokens."""

    def __init__(self, runner: LoadedRunner) -> None:
        self._runner = runner
        self._num_poor_steps = 0
        self.info = runner.info
        self.scheduler_config = runner.scheduler_config
        self.max_launches = runner.max_launches

    def launch(self, batch: Batch) -> Handle:
        last = self.info.vocab_size - 1
        orders = {last - token_id for row in batch.rows for token_id in row.token_ids}
        if DIE in orders:
            os.kill(os.getpid(), signal.SIGKILL)
        if POISON in orders:
            raise ZeroDivisionError("this runner was ordered to fail")
        if LOSE_MEMORY in orders and self._num_poor_steps == 0:
            self._num_poor_steps = NUM_POOR_STEPS
        if self._num_poor_steps > 0:
            self._num_poor_steps -= 1
            if batch.num_tokens > LARGEST_STEP:
                raise OutOfMemoryError("this runner was ordered to have little")
        return self._runner.launch(batch)


def load(config: EngineConfig, on_progress: Callable[[str, float], None]) -> FaultyRunner:
    order = Path(os.environ.get("FAULTY_LOADING", os.devnull))

    def on_faulty_progress(phase: str, fraction: float) -> None:
        on_progress(phase, fraction)
        if phase == "loading weights" and fraction >= 0.5 and order.is_file():
            number = int(order.read_text())
            order.unlink()
            os.kill(os.getpid(), number)

    return FaultyRunner(load_model(config, on_faulty_progress))


if __name__ == "__main__":
    sys.exit(run(BlockingChannel(socket.socket(fileno=int(sys.argv[1]))), load))
