"""Framing, and both ends of the channel over a real socket pair."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.channel import (
    MAX_FRAME_BYTES,
    AsyncChannel,
    BlockingChannel,
    ChannelClosed,
    ChannelError,
    FrameReader,
    encode_frame,
)
from engine.config import EngineConfig
from engine.messages import Abort, Fatal, FromEngine, GetStats, Init, Loading, Started, ToEngine

OVERSIZED = (MAX_FRAME_BYTES + 1).to_bytes(4, "little")


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(
    texts=st.lists(st.text(max_size=300), max_size=8),
    cuts=st.lists(st.integers(0, 3000), max_size=20),
)
def test_any_chunking_gives_the_same_frames(texts: list[str], cuts: list[int]) -> None:
    messages = [Fatal(text) for text in texts]
    stream = b"".join(encode_frame(message) for message in messages)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    reader = FrameReader()
    bodies = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        bodies += reader.feed(stream[start:end])

    assert [msgspec.msgpack.decode(body, type=FromEngine) for body in bodies] == messages


def test_a_frame_comes_with_its_last_byte_and_not_before() -> None:
    frame = encode_frame(Loading("reading", 0.5))
    reader = FrameReader()
    found = [len(list(reader.feed(frame[i : i + 1]))) for i in range(len(frame))]
    assert found == [0] * (len(frame) - 1) + [1]


def test_frame_layout() -> None:
    frame = encode_frame(GetStats())
    assert frame[:4] == len(frame[4:]).to_bytes(4, "little")
    assert msgspec.msgpack.decode(frame[4:]) == {"type": "GetStats"}


def test_an_oversized_frame_is_refused_at_its_header() -> None:
    with pytest.raises(ChannelError, match=f"a frame of {MAX_FRAME_BYTES + 1} bytes"):
        list(FrameReader().feed(OVERSIZED))


def test_an_oversized_message_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.channel.MAX_FRAME_BYTES", 30)
    encode_frame(Fatal(""))
    with pytest.raises(ChannelError, match="bytes is over 30"):
        encode_frame(Fatal("x" * 20))


class TestBlockingChannel:
    def test_receive_waiting_does_not_block(
        self, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = sockets
        channel = BlockingChannel(theirs)
        assert channel.receive_waiting() == []
        first, second = encode_frame(Abort("a")), encode_frame(Abort("b", 1))
        ours.sendall(first + second[:5])
        assert channel.receive_waiting() == [Abort("a")]
        assert channel.receive_waiting() == []
        ours.sendall(second[5:])
        assert channel.receive_waiting() == [Abort("b", 1)]

    def test_receive_waits_for_a_whole_message(
        self, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = sockets
        message = Init(EngineConfig("x" * 2_000_000))  # more than a socket holds
        writer = threading.Thread(target=ours.sendall, args=[encode_frame(message)])
        writer.start()
        assert BlockingChannel(theirs).receive() == [message]
        writer.join()

    def test_closed(self, sockets: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = sockets
        channel = BlockingChannel(theirs)
        ours.close()
        channel.wait_closed()
        with pytest.raises(ChannelClosed):
            channel.receive()
        with pytest.raises(ChannelClosed):
            channel.receive_waiting()
        with pytest.raises(ChannelClosed):
            channel.send(Loading("reading", 0.0))

    def test_closed_with_unread_data(self, sockets: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = sockets
        channel = BlockingChannel(theirs)
        channel.send(Loading("reading", 0.0))
        ours.close()
        with pytest.raises(ChannelClosed):
            channel.receive()

    def test_wait_closed_is_not_woken_by_data(
        self, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = sockets
        channel = BlockingChannel(theirs)
        ours.sendall(encode_frame(Abort("a")))
        watcher = threading.Thread(target=channel.wait_closed)
        watcher.start()
        assert channel.receive() == [Abort("a")]
        assert watcher.is_alive()
        ours.shutdown(socket.SHUT_RDWR)
        watcher.join(timeout=10)
        assert not watcher.is_alive()

    @pytest.mark.parametrize("body", [b"\xc1", b"\x80", msgspec.msgpack.encode({"type": "Ready"})])
    def test_not_a_command(self, sockets: tuple[socket.socket, socket.socket], body: bytes) -> None:
        ours, theirs = sockets
        ours.sendall(len(body).to_bytes(4, "little") + body)
        with pytest.raises(ChannelError, match="cannot be read"):
            BlockingChannel(theirs).receive()


class Recorder:
    """What an AsyncChannel tells."""

    def __init__(self) -> None:
        self.messages: list[FromEngine] = []
        self.closed: asyncio.Future[ChannelError | None] = (
            asyncio.get_running_loop().create_future()
        )

    async def open(self, sock: socket.socket) -> AsyncChannel:
        return await AsyncChannel.open(sock, self.messages.append, self.closed.set_result)


class TestAsyncChannel:
    async def test_messages_come_in_order_before_the_end(
        self, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = sockets
        recorder = Recorder()
        await recorder.open(ours)
        messages = [Loading("reading", i / 100) for i in range(100)]
        child = BlockingChannel(theirs)
        for message in messages:
            child.send(message)
        child.close()
        assert await recorder.closed is None
        assert recorder.messages == messages

    async def test_sending_never_blocks(self, sockets: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = sockets
        channel = await Recorder().open(ours)
        assert channel.num_unsent_bytes == 0
        messages: list[ToEngine] = [Init(EngineConfig("x" * 1_000_000)) for _ in range(3)]
        for message in messages:
            channel.send(message)
        assert channel.num_unsent_bytes > 2_000_000
        received: list[ToEngine] = []
        child = BlockingChannel(theirs)
        while len(received) < len(messages):
            received += await asyncio.to_thread(child.receive)
        assert received == messages
        channel.close()

    async def test_send_after_the_end_goes_nowhere(
        self, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = sockets
        recorder = Recorder()
        channel = await recorder.open(ours)
        theirs.close()
        assert await recorder.closed is None
        channel.send(GetStats())
        channel.close()

    @pytest.mark.parametrize("damage", [OVERSIZED, b"\x01\x00\x00\x00\xc1"])
    async def test_what_came_before_the_damage_counts(
        self, sockets: tuple[socket.socket, socket.socket], damage: bytes
    ) -> None:
        """The last thing that an engine says may be whose request it is about to run."""
        ours, theirs = sockets
        recorder = Recorder()
        await recorder.open(ours)
        theirs.sendall(encode_frame(Started(["a"])) + damage)
        assert isinstance(await recorder.closed, ChannelError)
        assert recorder.messages == [Started(["a"])]

    @pytest.mark.parametrize(
        ("sent", "complaint"),
        [
            (OVERSIZED, "bytes is over"),
            (b"\x01\x00\x00\x00\xc1", "cannot be read"),
            (bytes(encode_frame(Abort("a"))), "cannot be read"),  # the wrong way
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bytes is over"),
        ],
    )
    async def test_garbage_closes(
        self, sockets: tuple[socket.socket, socket.socket], sent: bytes, complaint: str
    ) -> None:
        ours, theirs = sockets
        recorder = Recorder()
        await recorder.open(ours)
        theirs.sendall(sent)
        assert complaint in str(await recorder.closed)
        assert recorder.messages == []
        assert theirs.recv(1) == b""
