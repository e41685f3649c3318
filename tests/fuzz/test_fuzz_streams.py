"""Any bytes in a stream of events, any tokens of any vocabulary: bounded memory, and no crash."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from octavo_client._sse import EventTooLongError, SSEDecoder

from server.text import StopStrings, StreamDecoder

BOUND = 16  # of an event, in bytes
SSE_PIECES = st.lists(
    st.binary(max_size=40)
    | st.sampled_from([b"data:", b"data: x\n", b"\n", b"\r", b"\r\n", b": c\n", b"\xef\xbb\xbf"])
    | st.sampled_from([b"event: e\n", b"data", b"\x00", b"\xe2\x80", b"id: 1\n", b"retry: x\n"]),
    max_size=40,
)


@settings(max_examples=500, deadline=None)
@example(pieces=[b"x" * (BOUND - 1), b"\r", b"\n"])
@given(pieces=SSE_PIECES)
def test_events_do_not_depend_on_the_pieces_and_memory_is_bounded(pieces: list[bytes]) -> None:
    cut, found = SSEDecoder(BOUND), []
    try:
        for piece in pieces:
            found += cut.feed(piece)
            held = len(cut._line) + sum(map(len, cut._data)) + len(cut._event)
            # A byte that is no UTF-8 becomes one character.
            assert held <= 2 * BOUND
            assert len(cut._data) <= BOUND
    except EventTooLongError:
        return
    whole = SSEDecoder(BOUND).feed(b"".join(pieces))
    assert found == whole


@settings(max_examples=500, deadline=None)
@given(
    vocabulary=st.lists(st.binary(max_size=6), min_size=1, max_size=40),
    ids=st.lists(st.integers(0, 60), max_size=60),
    stops=st.lists(st.text("ab\u4e16\ufffd \x00", min_size=1, max_size=5), max_size=4),
)
def test_text_is_held_back_no_longer_than_a_stop_string_may_be(
    vocabulary: list[bytes], ids: list[int], stops: list[str]
) -> None:
    decoder, matcher = StreamDecoder(vocabulary), StopStrings(stops)
    longest = max(map(len, stops), default=0)
    shown, raw = "", ""
    for token_id in ids:
        text = decoder.add((token_id,))
        assert len(decoder._incomplete) <= 3
        raw += text
        shown += matcher.feed(text)
        if matcher.matched is not None:
            break
        assert len(raw) - len(shown) < 2 * max(longest, 1)
    tail = decoder.finish()
    assert len(tail) <= 3
    raw += tail
    shown += matcher.feed(tail) + matcher.finish()
    if matcher.matched is None:
        assert shown == raw
    else:
        assert raw.startswith(shown + matcher.matched)
    assert not any(stop in shown for stop in stops)
