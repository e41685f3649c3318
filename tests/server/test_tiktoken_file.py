"""Vocabularies in tiktoken's form: tiktoken itself decides."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tiktoken
from sample_texts import PROSE, sample_texts
from tiktoken._educational import bpe_train
from tiktoken_ext import openai_public

from engine import AddedToken, CheckpointError, TokenizerData
from server.tokenizer import load_tokenizer


def published(encoding: Callable[[], dict[str, str]]) -> str:
    """OpenAI's pattern, without the vocabulary, which the function would fetch as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
        return encoding()["pat_str"]


PATTERNS = {
    "gpt-2": published(openai_public.r50k_base),
    "llama-bpe": published(openai_public.cl100k_base),
    "gpt-4o": published(openai_public.o200k_base),
}


@pytest.fixture(scope="module")
def ranks() -> Mapping[bytes, int]:
    """A small vocabulary out of prose."""
    trained: Mapping[bytes, int] = bpe_train(PROSE, 500, PATTERNS["llama-bpe"], visualise=None)
    return trained


@pytest.fixture
def path(tmp_path: Path, ranks: Mapping[bytes, int]) -> Path:
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    path = tmp_path / "some.tiktoken"
    path.write_bytes(b"".join(lines))
    return path


def data_for(path: Path, **changes: object) -> TokenizerData:
    data = TokenizerData(
        "tiktoken", None, None, None, "llama-bpe", None, 500, (501,), False, None,
        vocabulary_path=path,
        added_tokens={500: AddedToken("<|begin|>", True), 501: AddedToken("<|end|>", True),
                      502: AddedToken("<tool>", False)},
    )  # fmt: skip
    return replace(data, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_thousand_texts(path: Path, ranks: Mapping[bytes, int], pattern: str) -> None:
    oracle = tiktoken.Encoding(
        "oracle", pat_str=PATTERNS[pattern], mergeable_ranks=dict(ranks), special_tokens={}
    )
    tokenizer = load_tokenizer(data_for(path, pre=pattern))
    for text in sample_texts():
        token_ids = tokenizer.encode(text)
        assert token_ids == oracle.encode_ordinary(text), text
        assert tokenizer.decode(token_ids) == text


def test_special_tokens(path: Path) -> None:
    tokenizer = load_tokenizer(data_for(path, add_bos=True))
    token_ids = tokenizer.encode("the<tool><|end|>")
    assert (token_ids[0], token_ids[-2:]) == (500, [502, 501])
    assert tokenizer.decode(token_ids) == "the<tool>"
    assert tokenizer.encode("<|begin|>the<tool><|end|>") == token_ids
    assert tokenizer.token_text(501) == "<|end|>"
    assert tokenizer.vocab_size == 503


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"AA== 0\nAQ== 1\n", "not every byte"),
        (b"AA== x\n", "line 1 is not a token"),
        (b"\xff\xff 1\n", "line 1 is not a token"),
        (b"AA== 0\nAA== 1\n", "there twice"),
        (b"AA== 0\nAQ== 0\n", "there twice"),
        (b" 0\n", "is empty"),
        (b"", "not every byte"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"bad.tiktoken: .*{message}"):
        load_tokenizer(data_for(path))


def test_ids_far_apart_are_refused(tmp_path: Path) -> None:
    """They would take memory for a list that long."""
    path = tmp_path / "bad.tiktoken"
    lines = [base64.b64encode(bytes([i])) + b" %d\n" % (i * 10**9) for i in range(256)]
    path.write_bytes(b"".join(lines))
    with pytest.raises(CheckpointError, match="must count up from 0"):
        load_tokenizer(data_for(path))


def test_an_added_token_with_the_id_of_another(path: Path) -> None:
    added = {300: AddedToken("<|end|>", is_special=True)}
    with pytest.raises(CheckpointError, match="'<|end|>' has the id of another"):
        load_tokenizer(data_for(path, added_tokens=added))
