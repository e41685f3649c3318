"""Tokens that stand in a text by their names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import CheckpointError
from server.tokenizer.special_tokens import SpecialTokens

NAMES = ["<s>", "</s>", "<", "<s><s>", "a+b", "\n\n", "  ", "   "]


def test_the_longest_is_taken_and_nothing_is_lost() -> None:
    special = SpecialTokens({name: i for i, name in enumerate(NAMES)})
    parts = list(special.split("x<s><s></s>a+b a\n\n\n     y<"))
    assert parts == [
        *(("x", None), ("<s><s>", 3), ("</s>", 1), ("a+b", 4), (" a", None), ("\n\n", 5)),
        *(("\n", None), ("   ", 7), ("  ", 6), ("y", None), ("<", 2)),
    ]


@given(names=st.lists(st.text("ab<", min_size=1, max_size=4), unique=True), text=st.text("ab<c"))
def test_as_an_alternation_from_long_to_short(names: list[str], text: str) -> None:
    special = SpecialTokens({name: i for i, name in enumerate(names)})
    parts = list(special.split(text))
    assert "".join(part for part, _ in parts) == text
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"
    expected = [match[0] for match in re.finditer(pattern, text)]
    assert [part for part, token_id in parts if token_id is not None] == expected
    assert all(names[token_id] == part for part, token_id in parts if token_id is not None)


def test_white_space_after_some_is_swallowed() -> None:
    special = SpecialTokens({"<u>": 1, "<s>": 2}, strip_after={"<u>"})
    assert list(special.split(" <u> \n a <s> b<u> <u>\u00a0")) == [
        *((" ", None), ("<u>", 1), ("a ", None), ("<s>", 2), (" b", None)),
        *(("<u>", 1), ("<u>", 1), ("\u00a0", None)),
    ]


def test_no_special_tokens() -> None:
    assert list(SpecialTokens({}).split("text")) == [("text", None)]
    assert list(SpecialTokens({"": 1}).split("text")) == [("text", None)]
    assert list(SpecialTokens({"x": 1}).split("")) == []


def test_names_as_long_as_they_may_be() -> None:
    """Each the beginning of the next, which nests the pattern deepest."""
    names = {"a" * length: length for length in range(1, 301)}
    assert list(SpecialTokens(names).split("a" * 400)) == [("a" * 300, 300), ("a" * 100, 100)]


def test_an_absurd_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="special token of 5000 characters"):
        SpecialTokens({"a" * 5000: 1})
