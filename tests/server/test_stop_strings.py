"""Stop strings: as a search in the whole text would find them, however it is cut; nothing leaks."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text import StopAutomaton, StopStrings


def search(stops: list[str], text: str) -> tuple[str, str | None]:
    """The definition: the match that begins first, of equal ones the one that ends first."""
    matches = [
        (begin, begin + len(stop))
        for stop in stops
        for begin in range(len(text))
        if text.startswith(stop, begin)
    ]
    if not matches:
        return text, None
    begin, end = min(matches)
    return text[:begin], text[begin:end]


def feed_all(stops: StopStrings, pieces: list[str]) -> str:
    return "".join([stops.feed(piece) for piece in pieces]) + stops.finish()


small_alphabet = st.text(alphabet="ab漢", max_size=6)
stop_sets = st.lists(small_alphabet.filter(bool), min_size=1, max_size=5)
texts_in_pieces = st.lists(small_alphabet, max_size=12)


@given(stop_sets, texts_in_pieces)
def test_the_result_is_that_of_a_search_in_the_whole_text(stops, pieces):
    matcher = StopStrings(stops)
    shown = feed_all(matcher, pieces)
    assert (shown, matcher.matched) == search(stops, "".join(pieces))


@given(stop_sets, texts_in_pieces)
def test_only_a_prefix_of_a_stop_string_is_held_back(stops, pieces):
    matcher = StopStrings(stops)
    fed = shown = ""
    for piece in pieces:
        fed += piece
        shown += matcher.feed(piece)
        if matcher.matched is not None:
            break
        held = fed.removeprefix(shown)
        assert shown + held == fed
        assert any(stop.startswith(held) for stop in stops)


@given(stop_sets, texts_in_pieces, texts_in_pieces)
def test_an_automaton_is_shared_without_sharing_the_text(stops, some, others):
    automaton = StopAutomaton(stops)
    first, second = StopStrings(automaton), StopStrings(automaton)
    first_text = "".join([first.feed(piece) for piece in some])
    second_text = feed_all(second, others)
    first_text += first.finish()
    assert (first_text, first.matched) == search(stops, "".join(some))
    assert (second_text, second.matched) == search(stops, "".join(others))


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "matched"),
    [
        ([], ["any", "thing"], ["any", "thing"], None),
        (["\n"], ["one\ntwo"], ["one"], "\n"),
        (["###"], ["a#", "#b", "##", "#"], ["a", "##b", "", ""], "###"),
        (["User:"], ["Hi Us", "e", "r", ":", "more"], ["Hi ", "", "", "", ""], "User:"),
        (["ab", "abc"], ["xabc"], ["x"], "ab"),
        (["abc", "bc"], ["xabc"], ["x"], "abc"),
        (["abcd", "bc"], ["abc", "x"], ["", "a"], "bc"),
        (["abcd", "bc"], ["abc", "d"], ["", ""], "abcd"),
        (["xaab_", "aab!!", "b"], ["xaab", "!", "?"], ["", "x", "aa"], "b"),
        (["終わり"], ["これで終", "わ", "り。"], ["これで", "", ""], "終わり"),
    ],
)
def test_what_each_piece_brings(stops, pieces, shown, matched):
    matcher = StopStrings(stops)
    assert [matcher.feed(piece) for piece in pieces] == shown
    assert matcher.matched == matched


def test_finish_gives_what_was_held_back():
    matcher = StopStrings(["stop"])
    assert matcher.feed("do not sto") == "do not "
    assert matcher.finish() == "sto"
    assert matcher.matched is None


def test_finish_decides_for_a_match_that_a_longer_one_might_have_replaced():
    matcher = StopStrings(["abcd", "bc"])
    assert matcher.feed("abc") == ""
    assert matcher.matched is None
    assert matcher.finish() == "a"
    assert matcher.matched == "bc"
    assert matcher.finish() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])


@pytest.mark.parametrize("piece_size", [1, 100_000])
def test_adversarial_text_takes_linear_time(piece_size):
    text = "a" * 400_000
    matcher = StopStrings(["a" * length + "b" for length in range(240, 256)])
    begin = time.perf_counter()
    pieces = [text[i : i + piece_size] for i in range(0, len(text), piece_size)]
    assert feed_all(matcher, pieces) == text
    assert time.perf_counter() - begin < 20
