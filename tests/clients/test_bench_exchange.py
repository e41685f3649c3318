from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_client.bench.exchange import ExchangeError, ResponseParser

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\n"


def parse(*pieces: bytes) -> tuple[ResponseParser, bytes]:
    parser = ResponseParser()
    return parser, b"".join([parser.feed(piece) for piece in pieces])


@pytest.mark.parametrize(
    ("answer", "status", "body", "keeps_alive"),
    [
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
        (CHUNKED + b"1;x=y\r\nh\r\nB\r\nello\r\nhello\r\n0\r\nT: 1\r\n\r\n", 200,
         b"hello\r\nhello", True),
        (LENGTH + b"hello", 404, b"hello", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"hello", 404, b"hello", True),
        (LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"hello", 404, b"hello",
         False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    ],
)  # fmt: skip
@given(cuts=st.lists(st.integers(0, 120)))
def test_whole_answers_however_they_are_cut(
    answer: bytes, status: int, body: bytes, keeps_alive: bool, cuts: list[int]
) -> None:
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    parser, parsed = parse(*(answer[a:b] for a, b in zip(edges, edges[1:], strict=False)))
    assert (parser.status, parsed) == (status, body)
    assert (parser.is_done, parser.keeps_alive) == (True, keeps_alive)


def test_a_body_that_lasts_until_the_connection_ends() -> None:
    parser, body = parse(UNTIL_THE_END + b"hel", b"lo")
    assert (body, parser.is_done) == (b"hello", False)
    parser.end()
    assert (parser.is_done, parser.keeps_alive) == (True, False)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200", CHUNKED, CHUNKED + b"5\r\nhel", LENGTH, LENGTH + b"hell"]
)
def test_answers_cut_short(answer: bytes) -> None:
    parser, _ = parse(answer)
    with pytest.raises(ExchangeError, match="closed"):
        parser.end()


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"x" * 70_000,
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"fffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        LENGTH + b"hello, world",
    ],
)
def test_what_is_not_http(answer: bytes) -> None:
    with pytest.raises(ExchangeError):
        parse(answer)
