"""One engine process, from its start until it is reaped: whether it lives, what it says, its end.

While it loads, silence of LOADING_SECONDS is taken for a hang: it tells of each part of the
weights, so a slow disk is no silence. When it is ready its steps are watched. Knows the process,
its start and its pulse (Init, Loading, Ready, Ping, Pong, Fatal); what else it says is passed on
unread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine.channel import AsyncChannel, ChannelError
from engine.config import EngineConfig
from engine.errors import EngineStartError
from engine.info import EngineInfo
from engine.messages import Fatal, FromEngine, Init, Loading, Ping, Pong, Ready
from engine.watchdog import Watchdog

# Silence of a process that loads, after which it is taken to hang, or as long as --engine-timeout
# if that is longer. The longest that is silent when all is well: compiling kernels, for which the
# compiler has two minutes, and reading one tensor of a large model from a slow disk.
LOADING_SECONDS = 300.0
# How long a process that was told to go, or was killed, may take until that is said to have failed.
EXIT_GRACE_SECONDS = 3.0
# How long those who wait for answers are not told of an end, so that they can be told which.
ENDING_SECONDS = 1.0

_STDERR = 2

logger = logging.getLogger("octavo.engine")


class EngineChild:
    """One engine process, from its start until it is reaped. Made by `start`."""

    def __init__(
        self,
        on_message: Callable[[FromEngine], None],
        on_progress: Callable[[str, float], None] | None,
        timeout: float,
        first_info: EngineInfo | None,
    ) -> None:
        self._on_message = on_message
        self._on_progress = on_progress
        self._timeout = timeout
        self._first_info = first_info
        self._stage = "starting"
        # One that loads listens to nobody: there is no point in asking it.
        self._watchdog = Watchdog(
            max(LOADING_SECONDS, timeout), lambda: None, self._hangs_while_loading
        )
        self._is_hung = False
        self._ready: asyncio.Future[EngineInfo | None] = asyncio.get_running_loop().create_future()
        self._down = asyncio.Event()
        self._complaint: str | None = None
        self._channel: AsyncChannel
        self._process: subprocess.Popen[bytes]

    @classmethod
    async def start(
        cls,
        module: str,
        config: EngineConfig,
        on_message: Callable[[FromEngine], None],
        on_progress: Callable[[str, float], None] | None,
        first_info: EngineInfo | None = None,
    ) -> EngineChild:
        """Run `python -m module` and send it Init. Raises EngineStartError.

        It does not become ready if it says anything else of itself than `first_info`, which is what
        clients were told and what the tokenizer fits.
        """
        child = cls(on_message, on_progress, config.engine_timeout, first_info)
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                child._channel = await AsyncChannel.open(ours, child._receive, child._lost)
                try:
                    child._channel.send(Init(config))
                    child._process = _spawn(module, theirs)
                    child._watchdog.start()
                except BaseException:
                    child._channel.close()
                    raise
        except OSError as error:
            raise EngineStartError(f"the engine process cannot be run: {error}") from error
        except UnicodeEncodeError as error:  # names of files are bytes, and may be any
            raise EngineStartError(
                f"{error.object!a} is no name in UTF-8; rename it, or set a locale with UTF-8"
            ) from None
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def channel(self) -> AsyncChannel:
        return self._channel

    @property
    def is_ready(self) -> bool:
        return self._ready.done() and not self._down.is_set()

    @property
    def is_hung(self) -> bool:
        """Whether it was killed because it did nothing."""
        return self._is_hung

    @property
    def complaint(self) -> str | None:
        """What was wrong, in the words of the process itself or of the channel, if anything."""
        return self._complaint

    async def wait_ready(self) -> EngineInfo:
        """Wait until the engine has loaded. Raises EngineStartError, the process being gone."""
        info = await self._ready
        if info is None:
            ending = await self.wait_down()
            await self.stop()
            advice = "what it wrote before may say why"
            if self._process.returncode == -signal.SIGBUS:  # what is mapped is no longer there
                advice = "a file of the model was cut short while it was read, or its disk failed"
            raise EngineStartError(
                self._complaint
                or f"the engine process stopped while it was loading ({ending}); {advice}"
            )
        return info

    async def wait_down(self) -> str:
        """Wait until nothing more can be expected of it: how it ended, in words. It is to be
        stopped then, for its memory may not be free yet."""
        await self._down.wait()
        has_ended = await self._has_ended(ENDING_SECONDS)
        self._channel.close()  # what it might still say comes too late
        if not has_ended:
            return "it has not ended yet"
        code = self._process.returncode
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    async def stop(self) -> None:
        """Close the channel, which asks the process to go; kill it if it stays. Reaps it. May be
        called again."""
        self._watchdog.stop()
        self._channel.close()
        try:
            if await self._has_ended(EXIT_GRACE_SECONDS):
                return
            logger.warning("engine process %d does not end; killing it", self.pid)
            self._process.kill()
            if not await self._has_ended(EXIT_GRACE_SECONDS):
                # It waits for a disk or a device, which no signal interrupts.
                logger.error("engine process %d cannot be killed; it is left behind", self.pid)
        except asyncio.CancelledError:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_GRACE_SECONDS)
            raise

    async def _has_ended(self, seconds: float) -> bool:
        """Whether it does within so many seconds; reaps it."""
        try:
            # In a thread: an event loop can wait for a process only with a child watcher, which
            # ties it to the main thread.
            await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _receive(self, message: FromEngine) -> None:
        self._watchdog.hear()
        match message:
            case Pong():
                pass
            case Loading():
                self._stage = f"{message.phase}, {message.fraction:.0%}"
                if self._on_progress is not None:
                    self._on_progress(message.phase, message.fraction)
            case Ready() if change := self._change(message.info):
                self._complaint = change
                self._set_down()
            case Ready():
                if not self._ready.done():  # who waited for it may have been cancelled
                    self._ready.set_result(message.info)
                    self._watchdog.stop()
                    self._watchdog = Watchdog(
                        self._timeout, lambda: self._channel.send(Ping()), self._hangs_in_a_step
                    )
                    self._watchdog.start()
            case Fatal():
                self._complaint = message.message
                self._set_down()
            case _:
                self._on_message(message)

    def _change(self, info: EngineInfo) -> str | None:
        """What is not as it was when the server was started, if anything, for its operator."""
        if self._first_info is None:
            return None
        for name in ("architecture", "vocab_size", "num_parameters", "max_model_len"):
            before, now = getattr(self._first_info, name), getattr(info, name)
            if now != before:
                return (
                    f"the engine is not the one that the server was started with: {name} was "
                    f"{before} and is {now}; bring back the model's files or the memory for it, or "
                    "start the server again"
                )
        return None

    def _lost(self, error: ChannelError | None) -> None:
        if error is not None:
            self._complaint = f"the engine process sent what is not a message: {error}"
        self._set_down()

    def _hangs_while_loading(self) -> None:
        seconds = max(LOADING_SECONDS, self._timeout)
        self._hangs(
            f"the engine process made no progress for {seconds:g} s while it was loading "
            f"({self._stage}) and was ended; a longer --engine-timeout gives it more time"
        )

    def _hangs_in_a_step(self) -> None:
        self._hangs(f"it finished no step for {self._timeout:g} s (--engine-timeout)")

    def _hangs(self, complaint: str) -> None:
        self._complaint = complaint
        self._is_hung = True
        self._process.kill()  # asking it would be of no use
        self._set_down()

    def _set_down(self) -> None:
        self._watchdog.stop()
        self._down.set()
        if not self._ready.done():
            self._ready.set_result(None)


def _spawn(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Run `module` with one end of the channel and no other open file.

    Its own session keeps the terminal's Ctrl+C from it. `-P` and PYTHONPATH make it import our
    packages and not what lies in the working directory. Standard output belongs to the API process
    alone, so the engine's joins standard error.
    """
    root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([root, inherited]) if inherited else root
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", module, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
        # GNU OpenMP's threads spin at each barrier before they sleep. Its own default spins long
        # enough to take the cores from the API process (a step then took up to eight times as
        # long), none at all wakes too slowly: benchmarks/RESULTS.md.
        # And the C library is to keep what a step frees for the next one: a step's logits alone are
        # megabytes, which the system would clear each time.
        env={
            "GOMP_SPINCOUNT": "20000",
            "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
            "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
            **os.environ,
            "PYTHONPATH": path,
        },
    )
