"""The two ends of the socket between the API process and the engine process.

A frame is a 4-byte little-endian length and a MessagePack body. `AsyncChannel` is the parent's end
and never blocks the event loop; `BlockingChannel` is the child's end. Knows what a message looks
like, not what it means.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import cast

import msgspec

from engine.messages import FromEngine, ToEngine

# Far above any honest message (the largest carry prompt log-probabilities, tens of MiB); a length
# beyond it means that the stream is damaged.
MAX_FRAME_BYTES = 256 * 2**20

_HEADER = struct.Struct("<I")
_ENCODER = msgspec.msgpack.Encoder()
_READ_BYTES = 256 * 1024


class ChannelError(Exception):
    """The stream of bytes does not hold to the framing or to the messages."""


class ChannelClosed(Exception):
    """The other process closed its end, or is gone."""


def encode_frame(message: ToEngine | FromEngine) -> bytearray:
    """One whole frame. Raises ChannelError when the message is too large for the other side."""
    frame = bytearray(_HEADER.size)
    _ENCODER.encode_into(message, frame, _HEADER.size)
    num_body_bytes = len(frame) - _HEADER.size
    if num_body_bytes > MAX_FRAME_BYTES:
        raise ChannelError(f"a message of {num_body_bytes} bytes is over {MAX_FRAME_BYTES}")
    _HEADER.pack_into(frame, 0, num_body_bytes)
    return frame


class FrameReader:
    """Finds the frames in a stream of bytes that arrives in chunks of any size."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytearray]:
        """The bodies of all frames that `chunk` completes. Raises ChannelError after the last one
        before the damage."""
        pending = self._pending
        pending += chunk
        start = 0
        while len(pending) - start >= _HEADER.size:
            (num_body_bytes,) = _HEADER.unpack_from(pending, start)
            if num_body_bytes > MAX_FRAME_BYTES:
                raise ChannelError(f"a frame of {num_body_bytes} bytes is over {MAX_FRAME_BYTES}")
            end = start + _HEADER.size + num_body_bytes
            if len(pending) < end:
                break
            yield pending[start + _HEADER.size : end]
            start = end
        del pending[:start]


class BlockingChannel:
    """The engine's end: takes commands, sends messages. For one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = FrameReader()
        self._decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)

    def send(self, message: FromEngine) -> None:
        """Blocks while the parent is behind. Raises ChannelClosed, ChannelError."""
        try:
            self._socket.sendall(encode_frame(message))
        except ConnectionError as error:
            raise ChannelClosed from error

    def receive(self) -> list[ToEngine]:
        """Every command that has come; blocks until there is one. Raises as `receive_waiting`."""
        messages = self.receive_waiting()
        while not messages:
            messages = self._decode(self._read(0))
        return messages

    def receive_waiting(self) -> list[ToEngine]:
        """Every command that has come, without blocking. Raises ChannelClosed, ChannelError."""
        messages: list[ToEngine] = []
        while True:
            try:
                chunk = self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            messages += self._decode(chunk)

    def wait_closed(self) -> None:
        """Block until the parent's end is closed. Reads nothing, so any thread may wait here."""
        poll = select.poll()
        poll.register(self._socket, 0)  # hang-ups and errors are reported unasked
        poll.poll()

    def close(self) -> None:
        self._socket.close()

    def _read(self, flags: int) -> bytes:
        try:
            chunk = self._socket.recv(_READ_BYTES, flags)
        except ConnectionError as error:
            raise ChannelClosed from error
        if not chunk:
            raise ChannelClosed
        return chunk

    def _decode(self, chunk: bytes) -> list[ToEngine]:
        try:
            return [self._decoder.decode(body) for body in self._frames.feed(chunk)]
        except msgspec.DecodeError as error:
            raise ChannelError(f"a message cannot be read: {error}") from error


class AsyncChannel(asyncio.Protocol):
    """The parent's end, on the event loop. Made by `open`.

    `on_message` is called for each message and `on_closed` once, at the end of the connection,
    with what was wrong with the stream of bytes, if anything was.
    """

    def __init__(
        self,
        on_message: Callable[[FromEngine], None],
        on_closed: Callable[[ChannelError | None], None],
    ) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._frames = FrameReader()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._error: ChannelError | None = None

    @classmethod
    async def open(
        cls,
        sock: socket.socket,
        on_message: Callable[[FromEngine], None],
        on_closed: Callable[[ChannelError | None], None],
    ) -> AsyncChannel:
        """Take over `sock`, one end of a Unix socket pair."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: cls(on_message, on_closed), sock=sock
        )
        return channel

    @property
    def num_unsent_bytes(self) -> int:
        """Bytes of messages that the engine process has not taken yet, beyond the socket's own."""
        return self._transport.get_write_buffer_size()

    def send(self, message: ToEngine) -> None:
        """Hand over a message without waiting; to a closed channel it goes nowhere.

        Raises ChannelError when the message is too large.
        """
        frame = encode_frame(message)
        if not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        """Close now, dropping what was not sent."""
        self._transport.abort()

    # asyncio.Protocol, called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        messages: list[FromEngine] = []
        damage: ChannelError | None = None
        try:
            for body in self._frames.feed(data):
                messages.append(self._decoder.decode(body))  # noqa: PERF401 - they count
        except ChannelError as error:
            damage = error
        except msgspec.DecodeError as error:
            damage = ChannelError(f"a message cannot be read: {error}")
        for message in messages:
            self._on_message(message)
        if damage is not None:
            self._fail(damage)

    def connection_lost(self, error: Exception | None) -> None:
        self._on_closed(self._error)

    def _fail(self, error: ChannelError) -> None:
        self._error = error
        self._transport.abort()
