"""Byte-level BPE from GGUF against the `tokenizers` library, which the models were made with.

The vocabularies are trained here. How each family cuts a text is the library's own classes, or the
pattern that transformers and tiktoken publish for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import tokenizers
from sample_texts import PROSE, sample_texts
from tiktoken_ext import openai_public
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.cohere.tokenization_cohere import CohereTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN_2
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN_35

from engine import TokenizerData
from server.tokenizer import Tokenizer, load_tokenizer

NORMAL, CONTROL = 1, 3


def by_pattern(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), _letters_only()]
    )


def _letters_only() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=False)


def openai_pattern(encoding: Callable[[], dict[str, str]]) -> str:
    """The pattern alone: the function would fetch the vocabulary as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
        return encoding()["pat_str"]


def llama_pattern() -> str:
    return str(TikTokenConverter().pattern)


def falcon() -> PreTokenizer:
    threes = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("contiguous"), ByteLevel(add_prefix_space=False), threes]
    )


def single_digits() -> PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, ByteLevel(add_prefix_space=False)])


FAMILIES: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": lambda: ByteLevel(add_prefix_space=False),
    "smollm": single_digits,
    "llama-bpe": lambda: by_pattern(llama_pattern()),
    "qwen2": lambda: by_pattern(QWEN_2),
    "qwen35": lambda: by_pattern(QWEN_35),
    "gpt-4o": lambda: by_pattern(openai_pattern(openai_public.o200k_base)),
    "falcon": falcon,
    "command-r": lambda: CohereTokenizer().backend_tokenizer.pre_tokenizer,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = FAMILIES[request.param]()
    library.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True) for name in ("<s>", "</s>")]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(PROSE.splitlines(), trainer)
    model = json.loads(library.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    data = TokenizerData(
        kind="gguf-bpe",
        tokens=tokens,
        token_types=[CONTROL, CONTROL, *[NORMAL] * (len(tokens) - 2)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        pre=request.param,
        json_path=None,
        bos_token_id=0,
        eos_token_ids=(1,),
        add_bos=False,
        chat_template=None,
    )
    return library, load_tokenizer(data)


def test_a_thousand_texts(family: tuple[tokenizers.Tokenizer, Tokenizer]) -> None:
    library, tokenizer = family
    for text in sample_texts():
        expected = library.encode(text).ids
        assert tokenizer.encode(text) == expected, text
        assert tokenizer.decode(expected) == library.decode(expected) == text


def test_special_tokens_in_a_text(family: tuple[tokenizers.Tokenizer, Tokenizer]) -> None:
    library, tokenizer = family
    text = "The ferry</s><s> left 1234 </s>"
    expected = library.encode(text).ids
    assert expected.count(1) == 2
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode(expected) == "The ferry left 1234 "
    assert tokenizer.decode(expected, skip_special_tokens=False) == text
