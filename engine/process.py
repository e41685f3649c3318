"""The engine's own process, a child of the API process: `python -m engine.process FD`.

Composition root: loads the model, then takes commands at every step boundary and sends one message
per step. Single-threaded, but for a watcher that ends the process when the channel closes, whatever
it is doing, and the writer of its log, which is standard error.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from engine.background_log import logging_in_background
from engine.batch import Runner
from engine.calibration import calibrate
from engine.channel import BlockingChannel, ChannelClosed
from engine.config import EngineConfig, SchedulerConfig
from engine.core import EngineCore
from engine.errors import OctavoError
from engine.info import EngineInfo
from engine.messages import (
    Abort,
    Add,
    Fatal,
    GetStats,
    Init,
    Loading,
    Ping,
    Pong,
    Ready,
    Started,
    Stats,
    Step,
    ToEngine,
)

logger = logging.getLogger("octavo.engine")


class LoadedRunner(Runner, Protocol):
    """A runner with its model in memory."""

    @property
    def info(self) -> EngineInfo:
        """The engine as it came up."""

    @property
    def scheduler_config(self) -> SchedulerConfig:
        """The limits that the machine and the model set."""


# (config, on_progress(phase, fraction)) -> runner; raises CheckpointError
LoadRunner = Callable[[EngineConfig, Callable[[str, float], None]], LoadedRunner]


def run(channel: BlockingChannel, load_runner: LoadRunner) -> int:
    """Be the engine until the channel closes. Returns the exit code."""
    threading.Thread(target=_exit_when_closed, args=[channel], daemon=True).start()
    try:
        core = _load(channel, load_runner)
        _serve(channel, core)
    except ChannelClosed:
        return 0
    except OctavoError as error:
        failure = str(error)
    except Exception as error:
        logger.exception("the engine process cannot go on")
        failure = f"the engine failed: {type(error).__name__}: {error}"
    with suppress(ChannelClosed):
        channel.send(Fatal(" ".join(failure.split())))
    return 1


def _load(channel: BlockingChannel, load_runner: LoadRunner) -> EngineCore:
    [init] = channel.receive()
    assert isinstance(init, Init), "the first message says what engine to be"
    runner = load_runner(
        init.config, lambda phase, fraction: channel.send(Loading(phase, fraction))
    )
    limits = calibrate(runner, runner.scheduler_config)
    logger.info(
        "a step costs as much as %.0f tokens beside its own; prompts beside others: %s tokens",
        limits.step_overhead,
        limits.prompt_budget or "all",
    )
    core = EngineCore(runner, limits, on_start=lambda ids: channel.send(Started(ids)))
    gc.collect()
    gc.freeze()  # what is here stays: no search for garbage has to look at it, while all wait
    channel.send(Ready(runner.info))
    return core


def _serve(channel: BlockingChannel, core: EngineCore) -> None:
    while True:
        for message in channel.receive_waiting() if core.has_work else channel.receive():
            _obey(message, core, channel)
        if core.has_work:
            outputs = core.step()
            if outputs:
                channel.send(Step(outputs))


def _obey(message: ToEngine, core: EngineCore, channel: BlockingChannel) -> None:
    match message:
        case Add():
            for request in message.requests:
                core.add(request)
        case Abort(request_id, index):
            core.abort(request_id, index)
        case GetStats():
            channel.send(Stats(core.stats()))
        case Ping():
            channel.send(Pong())
        case Init():
            raise AssertionError("an engine is initialised once")


def _exit_when_closed(channel: BlockingChannel) -> None:
    """The API process has gone or wants us gone: end at once, also in the middle of loading."""
    channel.wait_closed()
    if os.getpgrp() == os.getpid():  # then only children of ours are in it, such as a compiler
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def load_model(config: EngineConfig, on_progress: Callable[[str, float], None]) -> LoadedRunner:
    on_progress("loading torch", 0.0)
    # The one place that imports torch; the rest of this file runs without it.
    from engine.runner import ModelRunner

    on_progress("loading torch", 1.0)
    return ModelRunner.load(config, on_progress)


def main() -> int:
    faulthandler.enable()  # a crash in a kernel shows where
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    with logging_in_background(sys.stderr, "engine: %(message)s"):
        return run(BlockingChannel(sock), load_model)


if __name__ == "__main__":
    sys.exit(main())
