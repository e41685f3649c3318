"""Short ways to a client whose child process is `fake_engine_process`, and to its outputs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from engine import EngineClient, EngineConfig, OutputStream, Request, SamplingParams

ENDLESS = 10**6


def make_request(
    request_id: str, prompt: list[int], max_tokens: int = ENDLESS, n: int = 1
) -> Request:
    return Request(request_id, prompt, SamplingParams(max_tokens=max_tokens), n=n)


def make_client(model_path: str = "") -> EngineClient:
    return EngineClient(EngineConfig(model_path), module="fake_engine_process")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again; the test's own timeout is the limit."""
    while not await condition():  # noqa: ASYNC110 - the other process sets no event here
        await asyncio.sleep(0.005)


async def is_ready(client: EngineClient) -> bool:
    return client.is_ready


async def is_down(client: EngineClient) -> bool:
    return not client.is_ready


async def has_pid(client: EngineClient) -> bool:
    return client.pid is not None


async def is_idle(client: EngineClient) -> bool:
    stats = await client.stats()
    return stats.num_running == stats.num_waiting == stats.num_blocks_used == 0


async def read_all(stream: OutputStream) -> dict[tuple[str, int], list[int]]:
    tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
    async for outputs in stream:
        assert outputs
        for output in outputs:
            tokens[output.request_id, output.index] += output.token_ids
    return dict(tokens)


def is_alive(pid: int) -> bool:
    """Also true of a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid: int) -> bool:
    """False of a zombie: what is nobody's child may stay one where process 1 reaps nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_unnoticed(pid: int) -> None:
    """Gone when this returns, while the event loop had no chance to see it."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
