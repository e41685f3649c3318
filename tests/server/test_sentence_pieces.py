"""SentencePiece vocabularies, from GGUF and from `tokenizer.model`: its own library decides."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_texts import PROSE, sample_texts
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from engine import AddedToken, CheckpointError, TokenizerData
from server.tokenizer import Tokenizer, load_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BOS, EOS = 1, 2

# What Llama 2 and Mistral, Gemma, and a model without byte tokens say to the trainer.
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "gemma": {"add_dummy_prefix": False, "user_defined_symbols": ["<table>", "\n\n"]},
    "over words": {"split_by_whitespace": False},
    "no bytes": {"byte_fallback": False, "character_coverage": 0.99},
}


def train(model_type: str = "bpe", **changes: object) -> SentencePieceProcessor:
    options = {
        "vocab_size": 900,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
        **changes,
    }
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE.splitlines() * 2),
        model_writer=model,
        model_type=model_type,
        **options,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())


def kind_of(processor: SentencePieceProcessor, token_id: int, symbols: object = ()) -> int:
    if processor.is_unknown(token_id):
        return UNKNOWN
    if processor.is_control(token_id):
        return CONTROL
    if processor.is_byte(token_id):
        return BYTE
    assert isinstance(symbols, list | tuple)
    return USER_DEFINED if processor.id_to_piece(token_id) in symbols else NORMAL


def as_gguf(
    processor: SentencePieceProcessor, *, symbols: object = (), **changes: object
) -> TokenizerData:
    """As llama.cpp's converter writes a SentencePiece model."""
    token_ids = range(processor.get_piece_size())
    data = TokenizerData(
        kind="gguf-spm",
        tokens=[processor.id_to_piece(i) for i in token_ids],
        token_types=[kind_of(processor, i, symbols) for i in token_ids],
        merges=None,
        pre=None,
        json_path=None,
        bos_token_id=BOS,
        eos_token_ids=(EOS,),
        add_bos=True,
        chat_template=None,
        scores=[processor.get_score(i) for i in token_ids],
        add_space_prefix=processor.normalize("x") != "x",
    )
    return replace(data, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def llama() -> SentencePieceProcessor:
    return train()


@pytest.fixture(scope="module")
def tokenizer(llama: SentencePieceProcessor) -> Tokenizer:
    return load_tokenizer(as_gguf(llama))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[SentencePieceProcessor, Tokenizer]:
    processor = train(**FAMILIES[request.param])
    symbols = FAMILIES[request.param].get("user_defined_symbols", ())
    return processor, load_tokenizer(as_gguf(processor, symbols=symbols))


def test_a_thousand_texts_from_gguf(
    family: tuple[SentencePieceProcessor, Tokenizer],
) -> None:
    processor, tokenizer = family
    texts = sample_texts()
    assert len(set(texts)) > 900
    for text in texts:
        expected = processor.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
        token_ids = tokenizer.encode(text)
        assert token_ids == [BOS, *expected]
        known = [i for i in expected if not processor.is_unknown(i)]
        decoded = tokenizer.decode([BOS, *known])
        assert decoded == processor.decode(known), text
        if known == expected:
            assert decoded == text


@given(text=st.text(alphabet="abt e\u00e9\n", max_size=60))
def test_many_merges_in_the_order_of_their_scores(
    llama: SentencePieceProcessor, tokenizer: Tokenizer, text: str
) -> None:
    assert tokenizer.encode(text, add_special_tokens=False) == llama.encode(text)


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\u2581")))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(data=st.data())
def test_any_ids_stream_as_they_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    token_ids = st.integers(0, tokenizer.vocab_size + 5)
    pieces = data.draw(st.lists(st.lists(token_ids, max_size=3), max_size=12))
    decoder = tokenizer.stream_decoder()
    text = "".join([decoder.add(piece) for piece in pieces]) + decoder.finish()
    assert text == tokenizer.decode([token_id for piece in pieces for token_id in piece])


def test_equal_scores_are_taken_from_the_left() -> None:
    """Phi-3's added tokens, for one, all have the same score."""
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "aa", "aaa", "ab", "\u2581"]
    data = TokenizerData(
        "gguf-spm", tokens, [2, 3, 3, *[1] * 6], None, None, None, 1, (2,), False, None,
        scores=[0.0] * len(tokens), add_space_prefix=False,
    )  # fmt: skip
    tokenizer = load_tokenizer(data)
    assert [tokens[i] for i in tokenizer.encode("aaaa")] == ["aaa", "a"]
    assert [tokens[i] for i in tokenizer.encode("aab")] == ["aa", "b"]


def test_special_tokens_are_parsed_as_llama_cpp_does(
    llama: SentencePieceProcessor, tokenizer: Tokenizer
) -> None:
    """What follows one is the beginning of a text again, and gets the space that one has."""
    first, second = llama.encode("the island"), llama.encode("a ferry")
    assert tokenizer.encode("<s>the island</s>a ferry") == [BOS, *first, EOS, *second]
    assert tokenizer.encode("</s></s>") == [BOS, EOS, EOS]
    assert tokenizer.decode([EOS, *first], skip_special_tokens=False) == "</s> the island"
    assert tokenizer.token_text(EOS) == "</s>"


def test_phi_3_swallows_white_space_after_its_tokens(llama: SentencePieceProcessor) -> None:
    tokenizer = load_tokenizer(as_gguf(llama, strip_after=frozenset({"</s>"})))
    ids = llama.encode("the island")
    assert tokenizer.encode("</s>\n the island") == [BOS, EOS, *ids]
    assert tokenizer.encode("<s>\nthe island") == [BOS, *llama.encode("\nthe island")]


def test_user_defined_tokens_are_text() -> None:
    processor = train(**FAMILIES["gemma"])
    symbols = FAMILIES["gemma"]["user_defined_symbols"]
    tokenizer = load_tokenizer(as_gguf(processor, symbols=symbols))
    text = "one<table>two\n\n\nthree"
    expected = processor.encode(text)
    assert processor.piece_to_id("<table>") in expected
    assert tokenizer.encode(text, add_special_tokens=False) == expected
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("unit", [" ", "\n", "a", "ab ", "\u6f22", "</s>", "\u2581"])
def test_a_long_text_of_anything_takes_bounded_time(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (200_000 // len(unit.encode()))
    begin = time.perf_counter()
    tokenizer.encode(text)
    assert time.perf_counter() - begin < 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "no SentencePiece vocabulary"),
        ({"scores": None}, "no SentencePiece vocabulary"),
        ({"token_types": None}, "no SentencePiece vocabulary"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    llama: SentencePieceProcessor, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(as_gguf(llama, **changes))


def data_for(path: Path | None, **changes: object) -> TokenizerData:
    data = TokenizerData(
        "sentencepiece", None, None, None, None, None, BOS, (EOS,), True, None,
        vocabulary_path=path,
    )  # fmt: skip
    return replace(data, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("bpe", {}),
        ("unigram", {}),
        ("unigram", {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}),
    ],
)
def test_a_thousand_texts_from_a_tokenizer_model(
    tmp_path: Path, model_type: str, changes: dict[str, object]
) -> None:
    processor = train(model_type, **changes)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(processor.serialized_model_proto())
    tokenizer = load_tokenizer(data_for(path))
    for text in sample_texts():
        expected = processor.encode(text)
        assert tokenizer.encode(text) == [BOS, *expected]
        assert tokenizer.decode([BOS, *expected]) == processor.decode(expected)


def test_tokens_that_the_folder_adds(llama: SentencePieceProcessor, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(llama.serialized_model_proto())
    first_id = llama.get_piece_size()
    added = {
        first_id: AddedToken("<|end|>", is_special=True),
        first_id + 3: AddedToken("<tool>", is_special=False),
    }
    tokenizer = load_tokenizer(data_for(path, added_tokens=added))
    token_ids = [BOS, *llama.encode("the island"), first_id, first_id + 3, EOS]
    assert tokenizer.encode("the island<|end|><tool></s>") == token_ids
    assert tokenizer.decode(token_ids) == "the island<tool>"
    assert tokenizer.token_text(first_id) == "<|end|>"
    assert tokenizer.vocab_size == first_id + 4


def test_a_damaged_tokenizer_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model cannot be read"):
        load_tokenizer(data_for(path))


def test_without_the_library_it_is_named(
    llama: SentencePieceProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(llama.serialized_model_proto())
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(CheckpointError, match="needs the package sentencepiece: pip install"):
        load_tokenizer(data_for(path))
