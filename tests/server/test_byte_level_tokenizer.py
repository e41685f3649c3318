"""Byte-level BPE from GGUF: the built-in model's vocabulary, and small ones with sharp edges."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import CheckpointError, TokenizerData, open_checkpoint
from server.tokenizer import Tokenizer, load_tokenizer

# The byte values that the built-in vocabulary has no token for.
MISSING = {4, 6, 19, 20, 22, 29, 192, 193, 241, 242, *range(245, 256)}

# As llama.cpp b11434 encodes them (llama_tokenize, special tokens parsed).
KNOWN_IDS = {
    "Hello, world!": [19556, 28, 905, 17],
    "The year 2024 has 366 days.": [
        *[504, 713, 216, 34, 32, 34, 36, 553, 216, 35, 38, 38, 2009, 30],
    ],
    "don't  stop\n\n  believing ": [12420, 982, 216, 2853, 8866, 16517, 216],
    "naïve café — déjà vu": [3546, 46494, 37366, 1841, 32564, 90, 16739, 386, 101],
    "漢字とかな 😀": [177, 137, 112, 36518, 7365, 118, 7365, 229, 7365, 120, 40303, 218],
    "x = [1, 2, 3]\r\n\tif x:\n        pass": [
        *[104, 446, 933, 33, 28, 216, 34, 28, 216, 35, 77, 2738, 197, 342, 1792, 42, 448, 1301],
    ],
    "a\x04b\x16\x1dc": [81, 82, 83],
    "\U00040000 \U000fffff": [218, 218, 218, 216, 188, 140, 140, 140],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "½Ⅷ٣12": [16738, 173, 223, 117, 164, 113, 33, 34],
}


@pytest.fixture(scope="module")
def builtin_data(builtin_model: Path) -> TokenizerData:
    return open_checkpoint(builtin_model).tokenizer


@pytest.fixture(scope="module")
def builtin(builtin_data: TokenizerData) -> Tokenizer:
    return load_tokenizer(builtin_data)


def small(**changes: object) -> TokenizerData:
    """A vocabulary where ids follow no order: the merges are `l l`, `he`, `ll o`, `he llo`."""
    tokens = ["hello", "<s>", "llo", "l", "h", "e", "o", "he", "Ġ", "ll", "<tool>", "<tool>s"]
    data = TokenizerData(
        kind="gguf-bpe",
        tokens=tokens,
        token_types=[1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4],
        merges=["l l", "h e", "ll o", "he llo"],
        pre="gpt-2",
        json_path=None,
        bos_token_id=1,
        eos_token_ids=(10,),
        add_bos=False,
        chat_template=None,
    )
    return replace(data, **changes)


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_the_built_in_vocabulary_encodes_as_llama_cpp_does(builtin, text):
    assert builtin.encode(text) == KNOWN_IDS[text]


@given(text=st.text())
def test_a_text_comes_back_without_the_bytes_that_have_no_token(builtin, text):
    kept = bytes(byte for byte in text.encode() if byte not in MISSING)
    assert builtin.decode(builtin.encode(text)) == kept.decode("utf-8", "replace")


@given(text=st.text(alphabet=st.characters(codec="utf-8", max_codepoint=0x3FFFF)))
def test_a_text_whose_bytes_all_have_tokens_comes_back_whole(builtin, text):
    known = "".join(char for char in text if MISSING.isdisjoint(char.encode()))
    assert builtin.decode(builtin.encode(known)) == known


@given(data=st.data())
def test_any_ids_stream_as_they_decode(builtin, data):
    token_ids = st.integers(0, builtin.vocab_size + 10) | st.integers(0, 300)
    pieces = data.draw(st.lists(st.lists(token_ids, max_size=3), max_size=10))
    decoder = builtin.stream_decoder()
    text = "".join([decoder.add(piece) for piece in pieces]) + decoder.finish()
    assert text == builtin.decode([token_id for piece in pieces for token_id in piece])


def test_facts_of_the_built_in_vocabulary(builtin):
    assert builtin.vocab_size == 49152
    assert (builtin.bos_token_id, builtin.eos_token_ids) == (1, (2,))
    assert builtin.max_token_bytes == 81
    assert builtin.encode("") == builtin.encode("\x04\x06") == [1]


def test_token_text(builtin):
    assert builtin.token_text(19556) == "Hello"
    assert builtin.token_text(2) == "<|im_end|>"
    assert [builtin.token_text(token_id) for token_id in builtin.encode("🦉")] == [
        *["bytes:\\xf0\\x9f", "bytes:\\xa6", "bytes:\\x89"],
    ]
    assert builtin.token_text(49152) == "token_id:49152"


@given(token_id=st.integers(0, 49151))
def test_token_text_and_decode_tell_the_same(builtin, token_id):
    name, text = builtin.token_text(token_id), builtin.decode([token_id])
    if name.startswith("bytes:"):
        data = name.removeprefix("bytes:").encode().decode("unicode_escape").encode("latin-1")
        assert data.decode("utf-8", "replace") == text
    else:
        assert text == ("" if token_id <= 16 else name)


def test_lone_surrogates_are_a_value_error(builtin):
    with pytest.raises(ValueError, match="surrogates"):
        builtin.encode("a\ud800b")


@pytest.mark.parametrize(
    "unit", [" ", "\n", " \t\r\n", "\x1c", "a", "7", "!", "漢", "<|im_sta", "<|im_end|>", "\x04"]
)
def test_a_megabyte_of_anything_takes_bounded_time(builtin, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    begin = time.perf_counter()
    token_ids = builtin.encode(text)
    assert time.perf_counter() - begin < 20
    assert builtin.decode(token_ids) == ("" if unit in ("<|im_end|>", "\x04") else text)


@pytest.mark.parametrize(("before", "after"), [("", ""), ("word", "word"), ("\n", "7")])
def test_a_long_run_of_spaces_costs_few_tokens_more_where_it_is_cut(builtin, before, after):
    run = " " * 65_536
    one, three = (len(builtin.encode(before + run * count + after)) for count in (1, 3))
    assert three <= 3 * one


def test_merges_rank_and_ids_only_name():
    tokenizer = load_tokenizer(small())
    assert tokenizer.encode("hello") == [0]
    assert tokenizer.encode("hell ello") == [7, 9, 8, 5, 2]
    assert tokenizer.decode([0, 8, 7, 3, 3, 6]) == "hello hello"


def test_bytes_without_a_token_vanish_and_nothing_merges_across_them():
    tokenizer = load_tokenizer(small())
    assert tokenizer.encode("heXllo") == [7, 2]
    assert tokenizer.encode("lXl漢o") == [3, 3, 6]


def test_special_tokens_are_parsed_longest_first():
    tokenizer = load_tokenizer(small())
    assert tokenizer.encode("<s>he<tool>sh<tool>e<tool") == [1, 7, 11, 4, 10, 5, 6, 6, 3]
    # User-defined tokens are text, control tokens are not.
    assert tokenizer.decode([1, 7, 11, 10, 5]) == "he<tool>se"
    assert tokenizer.token_text(11) == "<tool>s"


def test_bos_comes_first_and_once_if_the_model_wants_it():
    tokenizer = load_tokenizer(small(add_bos=True))
    assert tokenizer.encode("hello") == tokenizer.encode("<s>hello") == [1, 0]
    assert tokenizer.encode("") == [1]


def test_special_tokens_need_not_be_added():
    tokenizer = load_tokenizer(small(add_bos=True))
    assert tokenizer.encode("hello", add_special_tokens=False) == [0]
    assert tokenizer.encode("", add_special_tokens=False) == []


def test_special_tokens_may_be_shown():
    tokenizer = load_tokenizer(small())
    assert tokenizer.decode([1, 7, 11, 10, 5], skip_special_tokens=False) == "<s>he<tool>s<tool>e"
    assert tokenizer.decode([99], skip_special_tokens=False) == ""


def test_an_empty_text_is_the_start_of_a_document():
    assert load_tokenizer(small()).encode("") == [1]
    assert load_tokenizer(small(bos_token_id=None)).encode("") == [10]
    assert load_tokenizer(small(bos_token_id=None, eos_token_ids=())).encode("") == []


def test_a_file_that_does_not_say_how_texts_are_split(caplog):
    tokenizer = load_tokenizer(small(pre="default"))
    assert tokenizer.encode("hello") == [0]
    assert "does not say how its tokenizer splits a text" in caplog.text


def test_a_vocabulary_without_special_tokens():
    tokenizer = load_tokenizer(small(token_types=None))
    assert tokenizer.encode("hello") == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "klingon"}, r"'klingon' .* not supported; these are: .*smollm"),
        ({"pre": None}, r"None .* not supported"),
        ({"tokens": None}, "no byte-level BPE vocabulary"),
        ({"merges": None}, "no byte-level BPE vocabulary"),
        ({"merges": ["h o"]}, "a merge makes 'ho', which is no token"),
    ],
)
def test_what_cannot_be_loaded_is_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(small(**changes))
