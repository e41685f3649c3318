"""Keeps one engine process alive: starts it, watches it, starts it again when it dies.

An unexpected end is told at once; the next process follows after a pause that doubles from 0.1 s
to 10 s. One that hangs is killed. After too many ends in a row it gives up. Knows the process,
its start and its pulse (Init, Loading, Ready, Ping, Pong, Fatal); what else it says is passed on
unread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.channel import AsyncChannel, ChannelError
from engine.config import EngineConfig
from engine.errors import EngineDeadError, EngineStartError
from engine.info import EngineInfo
from engine.messages import (
    Fatal,
    FromEngine,
    Init,
    Loading,
    Ping,
    Pong,
    Ready,
    ToEngine,
)
from engine.watchdog import Watchdog

# How long a process that was told to go, or said that it cannot go on, may take until it is killed.
EXIT_GRACE_SECONDS = 3.0

_STDERR = 2

logger = logging.getLogger("octavo.engine")


class Backoff:
    """Pauses between starts, in seconds: doubling while starts keep failing, then constant."""

    FIRST = 0.1
    LONGEST = 10.0
    # An engine that was up for this long is taken to be sound: the next pause is the first again.
    HEALTHY_AFTER = 60.0
    # So many ends in a row, none of them after health: another start will not help.
    MOST_ENDS = 10

    def __init__(self) -> None:
        self._next = self.FIRST
        self._num_ends = 0

    def pause(self, seconds_up: float) -> float:
        """The pause before the next start, after a process that was ready for `seconds_up`.

        Raises EngineDeadError when there should be no other.
        """
        if seconds_up >= self.HEALTHY_AFTER:
            self._next = self.FIRST
            self._num_ends = 0
        self._num_ends += 1
        if self._num_ends >= self.MOST_ENDS:
            raise EngineDeadError(
                f"the engine process stopped {self._num_ends} times in a row, at most "
                f"{self.HEALTHY_AFTER:.0f} s after it was ready; the log says how each time"
            )
        pause = self._next
        self._next = min(2 * pause, self.LONGEST)
        return pause


class EngineChild:
    """One engine process, from its start until it is reaped. Made by `start`."""

    def __init__(
        self,
        on_message: Callable[[FromEngine], None],
        on_progress: Callable[[str, float], None] | None,
        timeout: float,
    ) -> None:
        self._on_message = on_message
        self._on_progress = on_progress
        self._watchdog = Watchdog(timeout, lambda: self._channel.send(Ping()), self._hangs)
        self._timeout = timeout
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
    ) -> EngineChild:
        """Run `python -m module` and send it Init. Raises EngineStartError."""
        child = cls(on_message, on_progress, config.engine_timeout)
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                child._channel = await AsyncChannel.open(ours, child._receive, child._lost)
                try:
                    child._channel.send(Init(config))
                    child._process = _spawn(module, theirs)
                except BaseException:
                    child._channel.close()
                    raise
        except OSError as error:
            raise EngineStartError(f"the engine process cannot be run: {error}") from error
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
    def complaint(self) -> str | None:
        """What was wrong, in the words of the process itself or of the channel, if anything."""
        return self._complaint

    async def wait_ready(self) -> EngineInfo:
        """Wait until the engine has loaded. Raises EngineStartError, the process being gone."""
        info = await self._ready
        if info is None:
            ending = await self.wait_gone()
            raise EngineStartError(
                self._complaint
                or f"the engine process stopped while it was loading ({ending}); "
                "what it wrote before may say why"
            )
        return info

    async def wait_gone(self) -> str:
        """Wait until the process ends by itself, and reap it: how it ended, in words."""
        await self._down.wait()
        return await self._reap()

    async def stop(self) -> None:
        """Close the channel, which asks the process to go; kill it if it stays."""
        self._watchdog.stop()
        self._channel.close()
        await self._reap()

    async def _reap(self) -> str:
        try:
            # In a thread: an event loop can wait for a process only with a child watcher, which
            # ties it to the main thread.
            await asyncio.to_thread(self._process.wait, EXIT_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("engine process %d does not end; killing it", self.pid)
        finally:
            self._channel.close()
            self._process.kill()
            code = self._process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _receive(self, message: FromEngine) -> None:
        self._watchdog.hear()
        match message:
            case Pong():
                pass
            case Loading():
                if self._on_progress is not None:
                    self._on_progress(message.phase, message.fraction)
            case Ready():
                if not self._ready.done():  # who waited for it may have been cancelled
                    self._ready.set_result(message.info)
                    self._watchdog.start()
            case Fatal():
                self._complaint = message.message
                self._set_down()
            case _:
                self._on_message(message)

    def _lost(self, error: ChannelError | None) -> None:
        if error is not None:
            self._complaint = f"the engine process sent what is not a message: {error}"
        self._set_down()

    def _hangs(self) -> None:
        self._complaint = f"it finished no step for {self._timeout:g} s (--engine-timeout)"
        self._process.kill()  # asking it would be of no use
        self._set_down()

    def _set_down(self) -> None:
        self._watchdog.stop()
        self._down.set()
        if not self._ready.done():
            self._ready.set_result(None)


class Supervisor:
    """One engine process after the other, until `close`.

    `on_message` gets what a ready engine says, `on_death` the way it ended, unasked, in words, and
    `on_return` follows when another one is ready, or `on_give_up`.
    """

    def __init__(
        self,
        config: EngineConfig,
        module: str,
        on_message: Callable[[FromEngine], None],
        on_death: Callable[[str], None],
        on_progress: Callable[[str, float], None] | None = None,
        *,
        on_return: Callable[[], None] = lambda: None,
        on_give_up: Callable[[str], None] = lambda failure: None,
    ) -> None:
        self._config = config
        self._module = module
        self._on_message = on_message
        self._on_death = on_death
        self._on_progress = on_progress
        self._on_return = on_return
        self._on_give_up = on_give_up
        self._child: EngineChild | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        return self._child is not None and self._child.is_ready

    @property
    def pid(self) -> int | None:
        """The engine process of the moment."""
        return self._child.pid if self._child is not None else None

    @property
    def num_unsent_bytes(self) -> int:
        return self._child.channel.num_unsent_bytes if self._child is not None else 0

    def send(self, message: ToEngine) -> None:
        """Hand over a message without waiting. Lost if the engine dies, which `on_death` tells."""
        assert self._child is not None, "send before start"
        self._child.channel.send(message)

    async def start(self) -> EngineInfo:
        """The first start, which must succeed. Raises EngineStartError, nothing being left over."""
        assert self._child is None, "started before"
        info = await self._launch()
        self._watch = asyncio.create_task(self._keep_alive(), name="engine supervisor")
        return info

    async def wait_given_up(self) -> None:
        """Wait for ever, or raise EngineDeadError when no other process is started any more."""
        assert self._watch is not None, "nothing is watched before the start"
        await asyncio.wait([self._watch])
        if not self._watch.cancelled():
            self._watch.result()

    async def close(self) -> None:
        """End the process and stop watching. May be called at any time, and again."""
        self._is_closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if self._child is not None:
            await self._child.stop()

    async def _launch(self) -> EngineInfo:
        child = await EngineChild.start(
            self._module, self._config, self._on_message, self._on_progress
        )
        self._child = child
        logger.info("engine process %d started", child.pid)
        try:
            if self._is_closed:
                await child.stop()
            info = await child.wait_ready()
        except asyncio.CancelledError:
            await child.stop()
            raise
        logger.info("engine process %d ready after %.1f s", child.pid, info.load_seconds)
        return info

    async def _keep_alive(self) -> None:
        backoff = Backoff()
        while True:
            assert self._child is not None
            ready_since = time.monotonic()
            ending = await self._child.wait_gone()
            seconds_up = time.monotonic() - ready_since
            logger.error(
                "engine process %d stopped unexpectedly (%s): %s",
                self._child.pid,
                ending,
                self._child.complaint or "it did not say why",
            )
            self._on_death(ending)
            await self._restart(backoff, seconds_up)

    async def _restart(self, backoff: Backoff, seconds_up: float) -> None:
        while True:
            try:
                pause = backoff.pause(seconds_up)
            except EngineDeadError as error:
                self._on_give_up(str(error))
                raise
            logger.info("the engine is started again in %.1f s", pause)
            await asyncio.sleep(pause)
            try:
                await self._launch()
            except EngineStartError as error:
                logger.error("the engine could not be started again: %s", error)
                seconds_up = 0.0
            else:
                self._on_return()
                return


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
