"""HTTP on a bare socket, for requests that no HTTP client would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `headers` with lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """What is in the envelope, which has all four keys and the headers that go with it."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["content-length"] == str(len(self.body))
        assert self.headers["x-request-id"]
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


class Connection:
    """A connection to the server. Nothing here waits longer than half a minute."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send `data` and see it go. Raises ConnectionError if the server reads no more."""
        for start in range(0, len(data), 65536):
            self._writer.write(data[start : start + 65536])
            await asyncio.wait_for(self._writer.drain(), 30)
            await asyncio.sleep(0)  # the server's turn

    async def send_until(self, task: asyncio.Task[Any], data: bytes, *, at_most: int) -> int:
        """Send `data` again and again until `task` is done; returns the number of bytes sent."""
        num_bytes = 0
        while not task.done() and num_bytes < at_most:
            self._writer.write(data)
            num_bytes += len(data)
            try:
                await self._writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)  # the server's turn
        await asyncio.wait_for(task, 30)
        return num_bytes

    async def head(self) -> str:
        """The next head; of a 100 that is all."""
        async with asyncio.timeout(30):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def answer(self, *, is_head: bool = False) -> Answer:
        """The next answer. Its body has a Content-Length or goes on to the end, in its chunks."""
        async with asyncio.timeout(30):
            lines = (await self.head()).split("\r\n")
            headers = {}
            for line in lines[1:-2]:
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            if "content-length" in headers:
                length = 0 if is_head else int(headers["content-length"])
                body = await self._reader.readexactly(length)
            else:
                body = await self.rest()
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        data = b""
        try:
            async with asyncio.timeout(30):
                while piece := await self._reader.read(65536):
                    data += piece
        except ConnectionError:
            pass
        return data


@asynccontextmanager
async def connect(client: httpx.AsyncClient) -> AsyncIterator[Connection]:
    """A connection to the server that `client` talks to."""
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
