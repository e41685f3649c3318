"""A thousand texts through each form that a `tokenizer.json` takes, both ways, as its library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from sample_texts import PROSE, sample_texts
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine import TokenizerData
from server.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]
SPACE = "\u2581"


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2, Llama 3, Qwen, SmolLM, OLMo."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(PROSE.splitlines(), trainer)
    return library


def llama() -> tokenizers.Tokenizer:
    """Llama 2, Phi-3: a space before every text, and bytes for what is not in the vocabulary."""
    library = with_bytes(normalizers.Prepend(SPACE))
    library.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return library


def gemma() -> tokenizers.Tokenizer:
    """Gemma: no space before a text."""
    library = with_bytes()
    library.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return library


def with_bytes(*normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    """BPE over whole texts with spaces written U+2581, and a token for each byte."""
    library = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    library.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always")
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, show_progress=False)
    library.train_from_iterator(PROSE.splitlines(), trainer)
    content = json.loads(library.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    content["model"] |= {"byte_fallback": True, "fuse_unk": True}
    content["pre_tokenizer"] = None
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    library.normalizer = normalizers.Sequence([*normalizer, normalizers.Replace(" ", SPACE)])
    return library


def unigram() -> tokenizers.Tokenizer:
    """As SentencePiece's unigram models are converted; what is unknown is one token."""
    library = tokenizers.Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always")
    library.decoder = decoders.Metaspace(SPACE, "always")
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=SPECIAL, unk_token=SPECIAL[0], show_progress=False
    )
    library.train_from_iterator(PROSE.splitlines(), trainer)
    return library


@pytest.fixture(scope="module", params=[byte_level, llama, gemma, unigram])
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    make: Callable[[], tokenizers.Tokenizer] = request.param
    library = make()
    path: Path = tmp_path_factory.mktemp("families") / "tokenizer.json"
    library.save(str(path))
    # As the file has it, which rounds the scores of pieces.
    library = tokenizers.Tokenizer.from_file(str(path))
    data = TokenizerData("tokenizer.json", None, None, None, None, path, 1, (2,), False, None)
    return library, load_tokenizer(data)


def test_a_thousand_texts(family: tuple[tokenizers.Tokenizer, Tokenizer]) -> None:
    library, tokenizer = family
    for text in sample_texts():
        expected = library.encode(text).ids
        assert tokenizer.encode(text) == expected, text
        with_bos = expected if expected[0] == 1 else [1, *expected]
        assert tokenizer.decode(with_bos) == library.decode(with_bos), text


def test_special_tokens_in_a_text(family: tuple[tokenizers.Tokenizer, Tokenizer]) -> None:
    library, tokenizer = family
    text = "The ferry</s> left<s></s>"
    expected = library.encode(text).ids
    assert (expected.count(2), expected[-2:]) == (2, [1, 2])
    assert tokenizer.encode(text) == expected
