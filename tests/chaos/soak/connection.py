"""One connection to the server, and answers read as strictly as HTTP/1.1 says they are written."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

SMALL_BUFFER = 4096  # bytes, of a client that makes the server wait


@dataclass(frozen=True)
class Head:
    """`headers` with lower-case names; none of them came twice."""

    status: int
    headers: dict[str, str]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Connection:
    """Has one request under way at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, *, has_small_buffer: bool = False) -> Connection:
        sock = socket.socket()
        sock.setblocking(False)
        if has_small_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = SMALL_BUFFER if has_small_buffer else 2**20
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def head(self) -> Head:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines
        fields = [line.split(": ", 1) for line in lines[1:-2]]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(fields), f"a header came twice: {lines}"
        return Head(int(status), headers)

    async def body(self, head: Head) -> bytes:
        return b"".join([piece async for piece in self.pieces(head)])

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The body as it comes, up to its end."""
        if "content-length" in head.headers:
            assert "transfer-encoding" not in head.headers
            yield await self._reader.readexactly(int(head.headers["content-length"]))
            return
        assert head.headers["transfer-encoding"] == "chunked", head
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = await self._reader.readexactly(size + 2)
            assert data[-2:] == b"\r\n"
            if size == 0:
                return
            yield data[:-2]

    async def expect_end(self) -> None:
        """The server closes the connection and sends nothing more."""
        rest = await self._reader.read()
        assert not rest, f"something came after the last answer: {rest[:200]!r}"

    def check_idle(self) -> None:
        """Nothing came that nobody asked for."""
        unread = bytes(self._reader._buffer)  # type: ignore[attr-defined]
        assert not unread, f"something came after an answer: {unread[:200]!r}"
        assert not self._reader.at_eof(), "the server closed an idle connection"

    async def close(self, *, resets: bool = False) -> None:
        """`resets`: as a client does that crashes, with no word of goodbye."""
        if resets:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)
