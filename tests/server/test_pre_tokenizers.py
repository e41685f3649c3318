"""The patterns cut texts as the models' own tokenizers do (Oniguruma runs the same syntax)."""

import pytest
from tokenizers import Regex, pre_tokenizers

from server.tokenizer.pre_tokenizers import PATTERNS

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
    splitter = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
    assert [word for word, _ in splitter.pre_tokenize_str(TEXT)] == words


@pytest.mark.parametrize("pattern", sorted(set(PATTERNS.values())))
def test_every_character_is_in_a_word(pattern):
    text = "".join(map(chr, [*range(0x300), 0x3042, 0x1F600, 0xE000, 0xFFFD, 0x10FFFF]))
    splitter = pre_tokenizers.Split(Regex(pattern), "removed")
    assert splitter.pre_tokenize_str(text) == []
