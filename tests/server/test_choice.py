"""One choice's text: whatever the grouping of its tokens, the same text, entries and count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from byte_tokenizer import EOS, byte_tokenizer
from fake_engine import logprobs_of
from hypothesis import given
from hypothesis import strategies as st

from engine import ChoiceOutput, FinishReason
from server.completion.choice import Choice, ChoiceFormat, Piece
from server.completion.logprobs import Logprobs
from server.text import StopAutomaton

TOKENIZER = byte_tokenizer()


@dataclass
class Told:
    """All that a choice said, put together."""

    pieces: list[Piece]
    choice: Choice

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def logprobs(self) -> Logprobs:
        joined = Logprobs()
        for piece in self.pieces:
            assert piece.logprobs is not None
            joined.extend(piece.logprobs)
        return joined


def tell(
    token_ids: Sequence[int],
    sizes: Sequence[int] = (),
    *,
    stop: Sequence[str] = (),
    reason: FinishReason = FinishReason.LENGTH,
    logprobs: bool = False,
    min_tokens: int = 0,
    prompt_text: str = "",
    includes_stop: bool = False,
    skips_special_tokens: bool = True,
    returns_token_ids: bool = False,
) -> Told:
    """Feed a choice groups of tokens of these sizes (then one by one), as the engine would."""
    choice = Choice(
        0,
        TOKENIZER,
        ChoiceFormat(
            stop=StopAutomaton(stop) if stop else None,
            includes_stop=includes_stop,
            logprobs=1 if logprobs else None,
            min_tokens=min_tokens,
            skips_special_tokens=skips_special_tokens,
            returns_token_ids=returns_token_ids,
        ),
        prompt_text=prompt_text,
        prompt_token_ids=[1, 2],
    )
    pieces = []
    left = list(token_ids)
    groups = iter(sizes)
    while choice.finish_reason is None:
        size = next(groups, 1)
        group, left = left[:size], left[size:]
        output = ChoiceOutput("r", 0, group, None if left else reason)
        if not left and reason is FinishReason.STOP:
            output.stop_token_id = group[-1]
        if logprobs:
            output.logprobs = [logprobs_of(token_id, 1) for token_id in group]
        choice.add(output)
        piece = choice.take()
        if piece is not None:
            pieces.append(piece)
    return Told(pieces, choice)


texts = st.text(alphabet="abß世🎉\0", max_size=30)
stops = st.lists(st.text(alphabet="abß世", min_size=1, max_size=4), max_size=3)
groupings = st.lists(st.integers(1, 9), max_size=20)


def cut(text: str, stop: Sequence[str]) -> str:
    """`text` before the stop string that begins first."""
    return text[: min([text.index(s) for s in stop if s in text], default=len(text))]


@given(texts, stops, groupings)
def test_text_is_cut_where_the_first_stop_string_begins(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    told = tell(list(text.encode()), sizes, stop=stop)
    assert told.text == cut(text, stop)
    is_stopped = any(s in text for s in stop)
    assert told.choice.finish_reason == ("stop" if is_stopped else "length")


@given(texts, st.text(alphabet="abß世", min_size=1, max_size=4), groupings)
def test_tokens_are_counted_to_the_one_that_completed_the_stop_string(
    text: str, stop: str, sizes: list[int]
) -> None:
    end = text.index(stop) + len(stop) if stop in text else len(text)
    told = tell(list(text.encode()), sizes, stop=[stop])
    assert told.choice.num_tokens == len(text[:end].encode())


@given(st.lists(st.integers(0, 258), max_size=40), stops, groupings, groupings)
def test_grouping_changes_nothing(
    token_ids: list[int], stop: list[str], sizes: list[int], others: list[int]
) -> None:
    one = tell(token_ids, sizes, stop=stop, logprobs=True, prompt_text="é:")
    other = tell(token_ids, others, stop=stop, logprobs=True, prompt_text="é:")
    assert one.text == other.text
    assert one.logprobs == other.logprobs
    assert one.choice.num_tokens == other.choice.num_tokens
    counted = [logprobs_of(token_id, 0).logprob for token_id in token_ids[: one.choice.num_tokens]]
    for told in (one, other):
        assert told.choice.sum_logprobs == pytest.approx(sum(counted))
    assert one.choice.finish_reason == other.choice.finish_reason
    assert tell(token_ids, sizes, stop=stop, prompt_text="é:").text == one.text
    offsets = one.logprobs.text_offset
    assert offsets == sorted(offsets)
    assert all(2 <= offset <= len(one.text) for offset in offsets)


@given(texts, stops, groupings)
def test_the_stop_string_is_included_when_asked_for(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    told = tell(list(text.encode()), sizes, stop=stop, includes_stop=True, logprobs=True)
    before = cut(text, stop)
    ends = [before + s for s in stop if text.startswith(before + s)]
    assert told.text in (ends or [text])
    assert "".join(told.logprobs.tokens) or not told.text
    assert all(offset < len(told.text) for offset in told.logprobs.text_offset)


@given(texts, stops, groupings)
def test_token_ids_are_those_that_were_counted(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    told = tell(list(text.encode()), sizes, stop=stop, returns_token_ids=True)
    extras = [piece.extras for piece in told.pieces if piece.extras is not None]
    assert [e.prompt_token_ids for e in extras] == [[1, 2], *[None] * (len(extras) - 1)]
    token_ids = [token_id for e in extras for token_id in e.token_ids or []]
    assert token_ids == list(text.encode())[: told.choice.num_tokens]


@given(texts, stops, groupings)
def test_no_piece_is_empty_but_the_last(text: str, stop: list[str], sizes: list[int]) -> None:
    pieces = tell(list(text.encode()), sizes, stop=stop).pieces
    assert all(piece.text for piece in pieces[:-1])
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert pieces[-1].finish_reason is not None


def test_the_reason_comes_with_the_last_text() -> None:
    pieces = tell(list("née".encode())).pieces
    assert [(p.text, p.finish_reason) for p in pieces] == [
        ("n", None),
        ("é", None),
        ("e", "length"),
    ]


def test_the_stop_token_is_counted_but_not_shown() -> None:
    told = tell([*b"ab", EOS], [3], reason=FinishReason.STOP, logprobs=True)
    assert (told.text, told.choice.num_tokens) == ("ab", 3)
    assert told.choice.finish_reason == "stop"
    assert told.logprobs.tokens == ["a", "b"]


def test_a_stop_token_that_is_text_is_not_shown() -> None:
    assert tell(list(b"abc"), reason=FinishReason.STOP).text == "ab"


def test_log_probabilities_wait_for_their_text() -> None:
    """`b` may become the stop string `bc`: neither its text nor its entry is shown before."""
    pieces = tell(list(b"abd"), stop=["bc"], logprobs=True).pieces
    assert [(p.text, p.logprobs and p.logprobs.tokens) for p in pieces] == [
        ("a", ["a"]),
        ("bd", ["b", "d"]),
    ]


def test_tokens_of_the_stop_string_have_no_entries() -> None:
    told = tell(list(b"abcd"), stop=["cd"], logprobs=True)
    assert (told.text, told.logprobs.tokens, told.choice.num_tokens) == ("ab", ["a", "b"], 4)


def test_offsets_of_a_split_character() -> None:
    told = tell(list("a世b".encode()), logprobs=True, prompt_text="xy")
    assert told.logprobs.tokens == ["a", r"bytes:\xe4", r"bytes:\xb8", r"bytes:\x96", "b"]
    assert told.logprobs.text_offset == [2, 3, 3, 3, 4]


def test_stop_strings_are_not_searched_for_before_min_tokens() -> None:
    assert tell(list(b"aXaX"), stop=["X"], min_tokens=2).text == "aXa"


def test_unfinished_bytes_become_a_replacement_character() -> None:
    assert tell(list("a世".encode())[:-1]).text == "a\ufffd"
