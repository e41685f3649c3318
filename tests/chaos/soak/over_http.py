"""The soak over HTTP: a server process, many clients, and scrapers that ask all the time.

Every answer is compared whole with what must come, the server's counts with what was sent, and the
server and its engine with what they were in an earlier quiet moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from chaos.soak.calls import ALIAS, MODEL, Call
from chaos.soak.connection import Connection
from chaos.soak.ledger import Ledger, Page, Seen, check_goes_on, parse_page, total
from chaos.soak.looks import Look, look_from_outside
from chaos.soak.report import WARM_UP, Report
from chaos.soak.traffic import Traffic

ROOT = Path(__file__).resolve().parents[3]
NUM_CLIENTS = 48  # at a time: more than run together, at times more than may wait
SECONDS_TO_START = 60.0
SECONDS_TO_END = 60.0
SECONDS_TO_SETTLE = 30.0
SCRAPE_EVERY = 0.25


@dataclass(frozen=True)
class ServerProcess:
    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    engine_pid: int

    async def looks(self, start: Look | None = None) -> list[Look]:
        """Of the server and its engine, when nothing is left to do and no more is open than there
        was at the `start`."""
        end = time.monotonic() + SECONDS_TO_SETTLE
        while True:
            look = await look_from_outside(self.process.pid, self.folder)
            is_as_before = start is None or (
                look.num_files <= start.num_files and look.num_tasks <= start.num_tasks
            )
            if is_as_before and not any(look.state.values()):
                return [look, await look_from_outside(self.engine_pid, self.folder)]
            assert time.monotonic() < end, f"left after the last answer: {look}"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def server_process(folder: Path) -> AsyncIterator[ServerProcess]:
    """A server with its files in `folder`, which has ended well after the block."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
            [sys.executable, "-m", "chaos.soak.server_process", str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            stdout=log,
        )
    try:
        async with asyncio.timeout(SECONDS_TO_START):
            while not (folder / "server.json").exists():
                assert process.poll() is None, "the server ended before it was ready"
                await asyncio.sleep(0.05)
        place = json.loads((folder / "server.json").read_text())
        yield ServerProcess(process, folder, **place)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, SECONDS_TO_END)
        assert code == 0, f"the server ended with {code}"
    finally:
        process.kill()
        process.wait()


class Scraper:
    """Asks on a connection of its own what operators ask, again and again."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self._port = port
        self._ledger = ledger
        self._num_asked = 0
        self.page: Page = {}

    async def run(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            await self.ask_all()
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), SCRAPE_EVERY)

    async def ask_all(self) -> None:
        connection = await Connection.open(self._port)
        health = await self._ask(connection, "/health")
        assert json.loads(health) == {"status": "ok"}
        models = json.loads(await self._ask(connection, "/v1/models"))
        assert [model["id"] for model in models["data"]] == [MODEL, ALIAS]
        stats = json.loads(await self._ask(connection, "/stats"))
        assert stats["requests"]["in_flight"] >= 1 and stats["engine"]["deaths"] == 0
        page = parse_page((await self._ask(connection, "/metrics")).decode())
        check_goes_on(self.page, page)
        self.page = page
        await connection.close()

    async def last_page(self) -> Page:
        """When nothing else is asked. It does not count itself."""
        connection = await Connection.open(self._port)
        page = parse_page((await self._ask(connection, "/metrics", is_counted=False)).decode())
        await connection.close()
        check_goes_on(self.page, page)
        return page

    async def _ask(self, connection: Connection, path: str, *, is_counted: bool = True) -> bytes:
        self._num_asked += 1
        request_id = f"scrape-{self._num_asked}"
        connection.send(Call("GET", path, request_id, key="key-a").encode())
        head = await connection.head()
        assert head.status == 200 and head.headers["x-request-id"] == request_id
        if is_counted:
            self._ledger.add(request_id, Seen(path, "GET", 200))
        return await connection.body(head)


async def soak_over_http(num_requests: int, seconds: float, seed: int) -> Report:
    """Run until so many requests are over, or the time is. Raises AssertionError."""
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with server_process(folder) as server:
            report, page = await _run(server, ledger, num_requests, seconds, seed)
        ledger.check((folder / "log").read_text(), page, report)
    report.num_preemptions = int(total(page, "num_preemptions"))
    report.num_cached_tokens = int(total(page, "prefix_cache_hits"))
    report.num_right_drafts = int(total(page, "spec_decode_num_accepted_tokens"))
    return report


async def _run(
    server: ServerProcess, ledger: Ledger, num_requests: int, seconds: float, seed: int
) -> tuple[Report, Page]:
    """The report and the last page of metrics."""
    start, _ = await server.looks()
    begun_at = time.monotonic()
    traffic = Traffic(server.port, ledger, seed)
    scraper = Scraper(server.port, ledger)
    numbers = iter(range(num_requests))
    looks: list[list[Look]] = []
    counts: list[int] = []
    for share in (WARM_UP, 1.0):
        part = islice(numbers, int(num_requests * share) - sum(counts))
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(scraper.run(is_over))
            await traffic.run(part, NUM_CLIENTS, begun_at + seconds * share)
            is_over.set()
        looks.append(await server.looks(start))
        counts.append(traffic.endings["requests"] - sum(counts))
    report = Report("over HTTP", traffic.endings.pop("requests"), traffic.endings)
    report.seconds = time.monotonic() - begun_at
    page = await scraper.last_page()
    report.take_looks(["server", "engine"], *looks, counts[-1])
    return report, page
