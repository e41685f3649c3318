from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from octavo_client._sse import EventTooLongError, ServerSentEvent, SSEDecoder


def decode(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def data(*pieces: bytes) -> list[str]:
    return [event.data for event in decode(*pieces)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a \n\n", [" a "]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b": a comment\n\ndata: a\n: another\n\n", ["a"]),
        (b"id: 1\nretry: 5\nnonsense: x\ndata: a\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: \xc3\xa9\xff\n\n", ["é\ufffd"]),
        (b"data: a\x0b\x1c\xc2\x85\xe2\x80\xa8b\n\n", ["a\x0b\x1c\x85\u2028b"]),
        (b"\n\n\n", []),
        (b"data: never finished\n", []),
    ],
)
def test_streams(stream: bytes, expected: list[str]) -> None:
    assert data(stream) == expected


def test_names() -> None:
    events = decode(b"event: error\ndata: a\n\ndata: b\n\n")
    assert events == [ServerSentEvent("a", "error"), ServerSentEvent("b", "message")]


@given(
    stream=st.lists(
        st.sampled_from([b"data: a", b"data:\xc3\xa9", b"\n", b"\r", b"\r\n", b": x", b"event: e"])
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 60)),
)
@example(stream=b"data: a\r\n\r\ndata: b\r\n\r\n", cuts=[8, 9, 10])
def test_cuts_do_not_matter(stream: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert decode(*pieces) == decode(stream)


def test_an_event_is_bounded() -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    assert decoder.feed(b"data: " + b"x" * 80 + b"\n\n")
    assert decoder.feed(b"data: " + b"x" * 80 + b"\n\n")
    with pytest.raises(EventTooLongError):
        for _ in range(20):
            decoder.feed(b"data: xxxxx\n")
