"""The patterns cut texts as the models' own tokenizers do (Oniguruma runs the same syntax)."""

import time

import pytest
from tokenizers import Regex, pre_tokenizers

from server.tokenizer.pre_tokenizers import SPLITS
from server.tokenizer.rank_encoding import RankEncoding

TEXT = "I'LL don't  pay 1234 €\n\n  now!!\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "gpt-2",
            ["I", "'", "LL", " don", "'t", " ", " pay", " 1234", " €", "\n\n ", " now", "!!", "\n"],
        ),
        (
            "smollm",
            ["I", "'", "LL", " don", "'t", " ", " pay", " ", "1", "2", "3", "4", " €", "\n\n "]
            + [" now", "!!", "\n"],
        ),
        (
            "llama-bpe",
            ["I", "'LL", " don", "'t", " ", " pay", " ", "123", "4", " €\n\n", " ", " now"]
            + ["!!\n"],
        ),
        (
            "qwen2",
            ["I", "'LL", " don", "'t", " ", " pay", " ", "1", "2", "3", "4", " €\n\n", " "]
            + [" now", "!!\n"],
        ),
        (
            "tekken",
            ["I", "'LL", " don", "'t", " ", " pay", " ", "1", "2", "3", "4", " €\n\n", " "]
            + [" now", "!!\n"],
        ),
    ],
)
def test_words_of_each_family(name, words):
    assert split(name, TEXT) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # Runs of punctuation, digits in threes from the left.
        ("falcon", ["I", "'", "LL", " pay", " ", "123", "45", ",", "€", "\n"]),
        ("default", ["I", "'", "LL", " pay", " ", "123", "45", ",", "€", "\n"]),
        ("deepseek-llm", ["I", "'", "LL", " pay", " ", "12345", ",", "€", "\n"]),
        ("deepseek-coder", ["I", "'", "LL", " pay", " ", *"12345", ",", "€", "\n"]),
        ("deepseek-v3", ["I", "'LL", " pay", " ", "123", "45", ",€\n"]),
        ("minicpm5", ["I", "'LL", " pay", " ", "123", "45", ",€\n"]),
        # Digits in threes from the right, and words of many words.
        ("superbpe", ["I'LL pay ", "12", "345", ",€\n"]),
        ("bloom", ["I'LL", " pay", " 12345", ",", "€", "\n"]),
        ("viking", ["I'LL", " pay", " ", *"12345", ",", "€", "\n"]),
        ("gpt-4o", ["I'LL", " pay", " ", "123", "45", ",€\n"]),
        ("seed-coder", ["I", "'LL", " pay", " ", *"12345", ",€", "\n"]),
        ("bailingmoe", ["I", "'LL", " pay", " ", *"12345", ",€\n"]),
        ("qwen35", ["I", "'LL", " pay", " ", *"12345", ",€\n"]),
    ],
)
def test_words_of_successive_splits(name, words):
    assert split(name, "I'LL pay 12345,€\n") == words


def split(name, text):
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[name]]
    return [word for word, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)]


@pytest.mark.parametrize("name", {splits: name for name, splits in SPLITS.items()}.values())
@pytest.mark.parametrize("unit", [" ", "\n", " \n", "a", "7", "!", "漢", "a ", "1a", "٣", "é'"])
def test_long_texts_take_bounded_time(name, unit):
    ranks = RankEncoding({bytes([byte]): byte for byte in range(256)}, SPLITS[name])
    text = unit * (100_000 // len(unit))
    begin = time.perf_counter()
    data = bytes(ranks.encode(text))
    assert time.perf_counter() - begin < 20
    assert data == text.encode()


@pytest.mark.parametrize(
    "pattern", sorted({splits[0] for splits in SPLITS.values() if len(splits) == 1})
)
def test_every_character_is_in_a_word(pattern):
    text = "".join(map(chr, [*range(0x300), 0x3042, 0x1F600, 0xE000, 0xFFFD, 0x10FFFF]))
    splitter = pre_tokenizers.Split(Regex(pattern), "removed")
    assert splitter.pre_tokenize_str(text) == []
