"""Sends the requests of a benchmark: so many at a time, or at random times at a given rate.

Failures are told in the answers, not raised. Knows nothing of what is made of the answers.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from octavo_client._sse import EventTooLongError
from octavo_client.bench.answer import Answer, AnswerError, AnswerReader
from octavo_client.bench.datasets import Prompt
from octavo_client.bench.exchange import Connection, ExchangeError


@dataclass(frozen=True)
class Target:
    """Where requests go and what they have in common. `timeout` is for a whole answer, seconds."""

    base_url: str
    headers: Mapping[str, str]
    params: Mapping[str, object]
    timeout: float

    def request(self, prompt: Prompt) -> bytes:
        """The request for one completion, as it is written to the connection."""
        body = {**self.params, "prompt": prompt.content, "max_tokens": prompt.max_tokens}
        content = json.dumps(body).encode()
        parts = urlsplit(self.base_url)
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Accept": "text/event-stream",
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {parts.path}/completions HTTP/1.1\r\n{lines}\r\n".encode() + content


class ConnectionPool:
    """Connections to one server, used again where possible, as clients do."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._idle: list[Connection] = []

    async def post(self, request: bytes, on_body: Callable[[int, bytes], None]) -> None:
        """See `Connection.post`. Raises OSError as well, when there is no connection to be had."""
        connection = self._take_idle()
        if connection is not None:
            try:
                await self._post(connection, request, on_body)
                return
            except ExchangeError:
                if connection.has_answer:
                    raise
                # The server closed an idle connection, as it may; that says nothing about it.
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._host, self._port, ssl=self._ssl
        )
        await self._post(connection, request, on_body)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _post(
        self, connection: Connection, request: bytes, on_body: Callable[[int, bytes], None]
    ) -> None:
        await connection.post(request, on_body)
        if connection.is_open:
            self._idle.append(connection)


def poisson_arrivals(count: int, rate: float, random: Random) -> list[float]:
    """Seconds from the beginning to each of `count` requests of a Poisson process."""
    arrivals = []
    at = 0.0
    for _ in range(count):
        arrivals.append(at)
        at += random.expovariate(rate)
    return arrivals


async def run_load(
    target: Target,
    prompts: Sequence[Prompt],
    *,
    max_concurrency: int | None,
    arrivals: Sequence[float] | None = None,
    on_answer: Callable[[Answer], None] = lambda answer: None,
) -> tuple[list[Answer], float]:
    """Ask for all `prompts`: the answers in the order of their ends, and the seconds it took.

    With `arrivals` each request begins at its time, whether or not the server keeps up (an open
    loop), later only where `max_concurrency` makes it wait. Without them the next request begins
    when one ends.
    """
    waiting = [(target.request(prompt), prompt.max_tokens) for prompt in prompts]
    pool = ConnectionPool(target.base_url)
    answers: list[Answer] = []

    async def ask(request: bytes, max_tokens: int) -> None:
        answer = Answer(max_tokens)
        await send(pool, request, answer, target.timeout)
        answers.append(answer)
        on_answer(answer)

    async def ask_one_after_the_other(requests: Iterator[tuple[bytes, int]]) -> None:
        for request, max_tokens in requests:
            await ask(request, max_tokens)

    async def ask_at(arrival: float, request: bytes, max_tokens: int) -> None:
        await asyncio.sleep(started + arrival - time.perf_counter())
        async with slots:
            await ask(request, max_tokens)

    num_slots = max(1, min(max_concurrency or len(waiting), len(waiting)))
    slots = asyncio.Semaphore(num_slots)
    started = time.perf_counter()
    try:
        if arrivals is None:
            requests = iter(waiting)
            await asyncio.gather(*(ask_one_after_the_other(requests) for _ in range(num_slots)))
        else:
            await asyncio.gather(
                *(
                    ask_at(arrival, request, max_tokens)
                    for arrival, (request, max_tokens) in zip(arrivals, waiting, strict=True)
                )
            )
        return answers, time.perf_counter() - started
    finally:
        pool.close()


async def send(pool: ConnectionPool, request: bytes, answer: Answer, timeout: float) -> None:
    """One request; `answer` is filled in while it comes, its `error` too. `timeout` in seconds."""
    reader = AnswerReader(answer)
    answer.started = time.perf_counter()
    try:
        await asyncio.wait_for(pool.post(request, reader.feed), timeout)
        reader.finish()
    except asyncio.TimeoutError:
        answer.error = f"no whole answer within {timeout:g} s"
    except OSError as error:
        answer.error = f"no connection: {error.strerror or error}"
    except (AnswerError, ExchangeError, EventTooLongError) as error:
        answer.error = str(error)
