"""Answers as text: valid JSON, ASCII only, whatever the model wrote."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from server.completion.choice import Piece
from server.completion.chunks import ChunkWriter
from server.completion.logprobs import Logprobs

WRITER = ChunkWriter("cmpl-1", 1, "m", "fp")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.floats(-9999, 0, allow_nan=False)


def choice_of(event: str) -> dict[str, object]:
    assert event.isascii()
    assert event.startswith("data: ")
    assert event.index("\n") == len(event) - 2
    choice: dict[str, object] = json.loads(event.removeprefix("data: "))["choices"][0]
    return choice


@given(text=TEXTS)
def test_any_text(text: str) -> None:
    event = WRITER.event(Piece(0, text))
    assert choice_of(event)["text"] == text
    assert f'"text":{json.dumps(text)},' in event


@given(tokens=st.lists(TEXTS, max_size=3), numbers=st.lists(NUMBERS, min_size=3, max_size=3))
def test_any_logprobs(tokens: list[str], numbers: list[float]) -> None:
    values = list(numbers[: len(tokens)])
    tops = [dict(zip(tokens, numbers, strict=False)) or None for _ in tokens]
    offsets = list(range(len(tokens)))
    event = WRITER.event(Piece(0, "", Logprobs(tokens, [*values], [*tops], offsets)))
    assert choice_of(event)["logprobs"] == {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def test_characters_beyond_16_bits_are_two_escapes() -> None:
    piece = Piece(0, "", Logprobs(["\U0001f600é"], [-1.0], [None], [0]))
    assert r'"tokens":["\ud83d\ude00\u00e9"]' in WRITER.event(piece)
