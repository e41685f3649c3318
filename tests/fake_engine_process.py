"""An engine process without a model: the real loop and core around a runner that counts.

Choice `index` of a request goes on from its prompt's last token in strides of `index + 1`, modulo
NUM_COUNTS. The tokens above that are orders to the runner, `EngineConfig.model_path` to its start.
Run as `python -m fake_engine_process FD`, with this folder on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.batch import Batch, RowOutput
from engine.channel import MAX_FRAME_BYTES, BlockingChannel, encode_frame
from engine.config import EngineConfig, SchedulerConfig
from engine.errors import CheckpointError
from engine.info import EngineInfo
from engine.messages import Fatal
from engine.process import run

NUM_COUNTS = 100
DIE = 100  # the process is killed
RAISE = 101  # the step raises
SEND_GARBAGE = 102
SEND_OVERSIZED = 103
LINGER = 104  # says that it cannot go on, and stays
ORDERS = range(NUM_COUNTS, NUM_COUNTS + 5)

# A slow start, in parts.
SLOW_PARTS = 8
SLOW_PART_SECONDS = 0.6

LIMITS = SchedulerConfig(
    num_blocks=8192,
    block_size=16,
    max_num_seqs=64,
    max_num_batched_tokens=512,
    max_model_len=8192 * 16,
)


def expected_tokens(last_prompt_token: int, index: int, num_tokens: int) -> list[int]:
    stride = index + 1
    return [(last_prompt_token + stride * i) % NUM_COUNTS for i in range(1, num_tokens + 1)]


class CountingHandle:
    def __init__(self, outputs: list[RowOutput]) -> None:
        self._outputs = outputs

    def wait(self) -> list[RowOutput]:
        return self._outputs


class CountingRunner:
    max_launches = 1

    def __init__(self, channel_fd: int) -> None:
        self._channel_fd = channel_fd
        self._strides = [1] * LIMITS.max_num_seqs
        self.scheduler_config = LIMITS
        self.info = EngineInfo(
            architecture="counting",
            vocab_size=NUM_COUNTS + len(ORDERS),
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

    def launch(self, batch: Batch) -> CountingHandle:
        time.sleep(0.0005)  # a model takes time; without that a reader has no chance to keep up
        for start in batch.starts:
            self._strides[start.row] = start.index + 1
        outputs = []
        for row in batch.rows:
            for order in set(row.token_ids).intersection(ORDERS):
                self._obey(order)
            token_id = (row.token_ids[-1] + self._strides[row.row]) % NUM_COUNTS
            outputs.append(RowOutput([token_id] if row.sample else []))
        return CountingHandle(outputs)

    def _obey(self, order: int) -> None:
        if order == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == RAISE:
            raise ZeroDivisionError("the runner was\nordered to fail")
        elif order == SEND_GARBAGE:
            os.write(self._channel_fd, b"\x03\x00\x00\x00\xc1\xc1\xc1")
        elif order == LINGER:
            os.write(self._channel_fd, encode_frame(Fatal("it was ordered to linger")))
            os.kill(os.getpid(), signal.SIGSTOP)
        elif order == SEND_OVERSIZED:
            os.write(self._channel_fd, (MAX_FRAME_BYTES + 1).to_bytes(4, "little"))


def load(
    channel_fd: int, config: EngineConfig, on_progress: Callable[[str, float], None]
) -> CountingRunner:
    print("the fake engine loads", flush=True)
    on_progress("reading", 0.0)
    order, _, argument = config.model_path.partition(":")
    if order == "missing":
        raise CheckpointError("no model at 'missing'; try another name")
    if order == "broken":
        raise ZeroDivisionError("a bug\nin the loader")
    if order == "die":
        os._exit(3)
    if order == "hang":
        time.sleep(3600)
    if order == "compile":  # the argument: where its process id goes
        compiler = subprocess.Popen(["sleep", "3600"])
        Path(argument).write_text(str(compiler.pid))
        compiler.wait()
    if order == "slow":
        for part in range(SLOW_PARTS):
            time.sleep(SLOW_PART_SECONDS)
            on_progress("reading", part / SLOW_PARTS)
    if order == "flaky":  # every second start dies
        starts = Path(argument)
        num_starts = int(starts.read_text()) if starts.exists() else 0
        starts.write_text(str(num_starts + 1))
        if num_starts % 2 == 1:
            os._exit(4)
    on_progress("reading", 1.0)
    runner = CountingRunner(channel_fd)
    if order == "changing":  # the argument: changes of what it says of itself
        runner.info = replace(runner.info, **json.loads(Path(argument).read_text()))
    return runner


def main() -> int:
    channel_fd = int(sys.argv[1])
    channel = BlockingChannel(socket.socket(fileno=channel_fd))
    return run(channel, lambda config, on_progress: load(channel_fd, config, on_progress))


if __name__ == "__main__":
    sys.exit(main())
