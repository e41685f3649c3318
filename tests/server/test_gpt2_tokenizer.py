"""GPT-2's `vocab.json` and `merges.txt` against the tokenizer that transformers makes of them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
import transformers

from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError
from server.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).parents[2]
END = "<|endoftext|>"
VOCAB_SIZE = 1200
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz      '.,!?\n",
    "".join(map(chr, range(0x20, 0x7F))),
    "aé ßñ żółtałódź ÄÖÜ\u00a0\u00ad\u0301\u200d\t\r\n\x00\x1f\x7f",
    "日本語のテキスト。漢字かな交じり文　",
    "🙂👩‍👩‍👧‍👦🇩🇪\U0010ffff\ue000 a1²½Ⅷ",
    "0123456789 -+.,e\n\n   ",
    "'s't're've'm'll'd 'S ’s don't we'll\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without weights whose vocabulary was trained on this repository's own pages."""
    folder = tmp_path_factory.mktemp("gpt2")
    trained = tokenizers.ByteLevelBPETokenizer()
    pages = [str(page) for page in sorted((ROOT / "docs").glob("*.md"))]
    trained.train(pages, vocab_size=VOCAB_SIZE - 1, show_progress=False)
    trained.save_model(str(folder))
    vocab = json.loads((folder / "vocab.json").read_bytes())
    vocab[END] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    write_config(folder, vocab_size=VOCAB_SIZE)
    return folder


def write_config(folder: Path, **changes: object) -> None:
    end_id = json.loads((folder / "vocab.json").read_bytes())[END]
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64}
    fields = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **sizes}
    fields |= {"bos_token_id": end_id, "eos_token_id": end_id, **changes}
    (folder / "config.json").write_text(json.dumps(fields))


def load(folder: Path) -> Tokenizer:
    return load_tokenizer(open_checkpoint(folder, require_weights=False).tokenizer)


def texts() -> list[str]:
    """1,000 of them: of this repository, random ones, and mixtures of both."""
    rng = random.Random(6)  # noqa: S311
    source = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    source += (ROOT / "tests/server/test_gpt2_tokenizer.py").read_text()
    result = ["", " ", "\n", "Once upon a time", f"a{END}b", f"{END}{END}", " " * 300, "a" * 300]
    while len(result) < 1000:
        start, length = rng.randrange(len(source)), rng.randrange(200)
        real = source[start : start + length]
        made = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(60)))
        result.append(rng.choice((real, made, made + real, real + END + made)))
    return result


def test_ids_and_texts_are_the_reference_s(folder: Path) -> None:
    ours, theirs = load(folder), transformers.GPT2Tokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(theirs) == VOCAB_SIZE
    for text in texts():
        token_ids = ours.encode(text, add_special_tokens=False)
        assert token_ids == theirs.encode(text, add_special_tokens=False), text
        assert ours.decode(token_ids, skip_special_tokens=False) == text
    rng = random.Random(7)  # noqa: S311
    for _ in range(1000):
        token_ids = rng.choices(range(VOCAB_SIZE), k=rng.randrange(12))
        for skips in (False, True):
            text = theirs.decode(
                token_ids, skip_special_tokens=skips, clean_up_tokenization_spaces=False
            )
            assert ours.decode(token_ids, skip_special_tokens=skips) == text


def test_the_end_of_a_text_is_a_special_token(folder: Path) -> None:
    tokenizer = load(folder)
    end_id = VOCAB_SIZE - 1
    assert tokenizer.eos_token_ids == (end_id,)
    assert tokenizer.description.eos_token == END
    assert not tokenizer.description.add_bos_token
    assert tokenizer.encode("") == [end_id]  # a document's start
    assert tokenizer.decode([end_id]) == ""


def copy_of(folder: Path, into: Path) -> Path:
    for file in folder.iterdir():
        (into / file.name).write_bytes(file.read_bytes())
    return into


def test_tokens_added_later(folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path)
    added = {"[PAD]": VOCAB_SIZE, "<tag>": VOCAB_SIZE + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    write_config(tmp_path, vocab_size=VOCAB_SIZE + 3)
    tokenizer = load(tmp_path)
    token_ids = tokenizer.encode("a<tag>[PAD]")
    assert token_ids[1:] == [VOCAB_SIZE + 1, VOCAB_SIZE]
    assert tokenizer.decode(token_ids) == "a<tag>"

    (tmp_path / "added_tokens.json").unlink()
    entries = {"1200": {"content": "[X]", "special": True}, "1201": {"content": "[Y]"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    tokenizer = load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("[X]a[Y]")) == "a[Y]"


def test_the_class_may_stand_in_the_settings(folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path)
    write_config(tmp_path, vocab_size=VOCAB_SIZE, model_type=None)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2TokenizerFast"}')
    assert load(tmp_path).vocab_size == VOCAB_SIZE
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(CheckpointError, match="its folder needs a tokenizer.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "vocab.json",
            b'{"a": 0, "b": 2, "<|endoftext|>": 1, "c": 4}',
            "must be 0 to 3, each once",
        ),
        ("vocab.json", b'{"a": 0, "b": 0, "<|endoftext|>": 1}', "must be 0 to 2, each once"),
        ("vocab.json", b'{"a": "0"}', "a must be an integer, not '0'"),
        ("vocab.json", b'["a"]', "must be a JSON object"),
        ("merges.txt", b"#version: 0.2\nq \xc4\xa0zzz\n", "does not join two tokens of vocab.json"),
        ("merges.txt", b"\xff\n", "not valid UTF-8"),
        ("added_tokens.json", b'{"<|endoftext|>": 3}', "has the id 1199 here and 3 as added token"),
        ("added_tokens.json", b'{"new": 1200}', "has 1201 tokens for 1200 embeddings"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', "must be an id"),
    ],
)
def test_what_is_refused(
    folder: Path, tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    copy_of(folder, tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path, require_weights=False)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
