"""TokenizerData from GGUF metadata and from the files of a Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import MERGES, TOKEN_TYPES, TOKENS, write_gguf, write_huggingface

from engine.checkpoint import AddedToken, TokenizerData, open_checkpoint
from engine.checkpoint.fields import Fields
from engine.checkpoint.tokenizer_data import gguf_tokenizer
from engine.errors import CheckpointError


def from_gguf(tmp_path: Path, **metadata: Any) -> TokenizerData:
    return open_checkpoint(write_gguf(tmp_path / "m.gguf", **metadata)).tokenizer


def test_gguf_vocabulary(tmp_path: Path) -> None:
    assert from_gguf(tmp_path, tokenizer__chat_template="{{ messages }}") == TokenizerData(
        kind="gguf-bpe",
        tokens=TOKENS,
        token_types=TOKEN_TYPES,
        merges=MERGES,
        pre="smollm",
        json_path=None,
        bos_token_id=3,
        eos_token_ids=(4,),
        add_bos=False,
        chat_template="{{ messages }}",
        special_tokens={"bos_token": "<|start|>", "eos_token": "<|end|>"},
    )


@pytest.mark.parametrize(
    ("metadata", "eos_token_ids"),
    [
        ({"tokenizer__ggml__eot_token_id": 5}, (4, 5)),
        ({"tokenizer__ggml__eot_token_id": 5, "tokenizer__ggml__eom_token_id": 6}, (4, 5, 6)),
        ({"tokenizer__ggml__eot_token_id": 4}, (4,)),
        ({"tokenizer__ggml__eos_token_id": None}, ()),
    ],
)
def test_gguf_ends(tmp_path: Path, metadata: Any, eos_token_ids: tuple[int, ...]) -> None:
    assert from_gguf(tmp_path, **metadata).eos_token_ids == eos_token_ids


@pytest.mark.parametrize(
    ("metadata", "add_bos"),
    [
        ({"tokenizer__ggml__add_bos_token": True}, True),
        ({"tokenizer__ggml__add_bos_token": False}, False),
        ({"tokenizer__ggml__pre": "llama-bpe"}, True),
        ({"tokenizer__ggml__pre": "llama-bpe", "tokenizer__ggml__add_bos_token": False}, False),
        ({"tokenizer__ggml__pre": "llama-bpe", "tokenizer__ggml__bos_token_id": None}, False),
    ],
)
def test_gguf_begin(tmp_path: Path, metadata: Any, add_bos: bool) -> None:
    assert from_gguf(tmp_path, **metadata).add_bos == add_bos


def test_gguf_without_a_tokenizer_opens(tmp_path: Path) -> None:
    keys = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id")
    without = {f"tokenizer__ggml__{key}": None for key in keys}
    data = from_gguf(tmp_path, model__vocab_size=8, **without)
    assert (data.tokens, data.token_types, data.merges, data.pre) == (None, None, None, None)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"tokenizer__ggml__model": "bert"}, "'bert' is not supported in GGUF"),
        ({"tokenizer__ggml__tokens": [*TOKENS[:-1], "a"]}, "the same token twice"),
        ({"tokenizer__ggml__tokens": [1, 2]}, "vocab_size is missing"),
        ({"model__vocab_size": 8, "tokenizer__ggml__tokens": [1]}, "array of strings"),
        (
            {
                "tokenizer__ggml__tokens": [*TOKENS, "e"],
                "tokenizer__ggml__token_type": [*TOKEN_TYPES, 1],
            },
            r"config asks for \[9, 64\]",
        ),
        (
            {"tokenizer__ggml__tokens": [*TOKENS, "e"], "model__vocab_size": 8},
            "9 tokens for 8 embeddings",
        ),
        ({"tokenizer__ggml__token_type": None}, "token_type must be an array of integers"),
        ({"tokenizer__ggml__token_type": [1.5] * 8}, "token_type must be an array of integers"),
        ({"tokenizer__ggml__token_type": [1]}, "1 entries for 8 tokens"),
        ({"tokenizer__ggml__token_type": [7] * 8}, "types 1 to 6"),
        ({"tokenizer__ggml__merges": None}, "merges must be an array of strings"),
        ({"tokenizer__ggml__merges": ["a c"]}, "'a c', which does not join two tokens"),
        ({"tokenizer__ggml__merges": ["ab"]}, "'ab', which does not join"),
        ({"tokenizer__ggml__merges": ["a z"]}, "'a z', which does not join"),
        ({"tokenizer__ggml__bos_token_id": 8}, r"bos_token_id must be in 0\.\.7, not 8"),
        ({"tokenizer__ggml__eos_token_id": 8}, r"eos_token_id must be in 0\.\.7, not 8"),
        ({"tokenizer__ggml__add_bos_token": 1}, "must be true or false, not 1"),
        ({"tokenizer__chat_template": 1}, "chat_template must be a string"),
    ],
)
def test_gguf_refusals(tmp_path: Path, metadata: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        from_gguf(tmp_path, **metadata)


def test_gguf_names_of_special_tokens(tmp_path: Path) -> None:
    ids = {"tokenizer__ggml__padding_token_id": 5, "tokenizer__ggml__unknown_token_id": 99}
    assert from_gguf(tmp_path, **ids).special_tokens == {
        "bos_token": "<|start|>",
        "eos_token": "<|end|>",
        "pad_token": "<|turn|>",
    }
    assert from_gguf(tmp_path, tokenizer__ggml__bos_token_id=None).special_tokens == {
        "eos_token": "<|end|>"
    }


def from_folder(folder: Path, files: dict[str, Any] | None = None, **config: Any) -> TokenizerData:
    write_huggingface(folder, **config)
    for name, content in (files or {}).items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    return open_checkpoint(folder).tokenizer


def test_folder_with_a_tokenizer(tmp_path: Path) -> None:
    settings = {
        "chat_template": "{{ x }}",
        "add_bos_token": True,
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": "</s>",
        "pad_token": {"content": "<pad>", "lstrip": False},
        "unk_token": None,
    }
    data = from_folder(tmp_path, {"tokenizer.json": "{}", "tokenizer_config.json": settings})
    assert data == TokenizerData(
        kind="tokenizer.json",
        tokens=None,
        token_types=None,
        merges=None,
        pre=None,
        json_path=tmp_path / "tokenizer.json",
        bos_token_id=3,
        eos_token_ids=(4,),
        add_bos=True,
        chat_template="{{ x }}",
        special_tokens={"eos_token": "</s>", "pad_token": "<pad>"},
        tokenizer_class="LlamaTokenizer",
    )


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    data = from_folder(tmp_path, bos_token_id=None, eos_token_id=None)
    assert (data.json_path, data.bos_token_id, data.eos_token_ids) == (None, None, ())
    assert (data.add_bos, data.chat_template) == (False, None)


@pytest.mark.parametrize(
    ("in_config", "eos_token_ids"), [(4, (4,)), ([4, 5, 4], (4, 5)), (None, ()), ([], ())]
)
def test_folder_ends(tmp_path: Path, in_config: Any, eos_token_ids: tuple[int, ...]) -> None:
    data = from_folder(tmp_path, eos_token_id=in_config)
    assert data.eos_token_ids == eos_token_ids
    assert data.ending_at([6, 4]).eos_token_ids == tuple(dict.fromkeys((6, 4, *eos_token_ids)))


SPM = {
    "tokenizer__ggml__model": "llama",
    "tokenizer__ggml__scores": [0.0, -1.0, -2.5, 0.0, 0.0, 0.0, -3.0, -4.0],
    "tokenizer__ggml__merges": None,
    "tokenizer__ggml__pre": None,
}


def test_gguf_sentence_pieces(tmp_path: Path) -> None:
    assert from_gguf(tmp_path, **SPM) == TokenizerData(
        kind="gguf-spm",
        tokens=TOKENS,
        token_types=TOKEN_TYPES,
        merges=None,
        pre=None,
        json_path=None,
        bos_token_id=3,
        eos_token_ids=(4,),
        add_bos=True,
        chat_template=None,
        special_tokens={"bos_token": "<|start|>", "eos_token": "<|end|>"},
        scores=[0.0, -1.0, -2.5, 0.0, 0.0, 0.0, -3.0, -4.0],
    )


def test_gguf_sentence_pieces_say_what_differs(tmp_path: Path) -> None:
    flags = {"add_bos_token": False, "add_space_prefix": False}
    changes = {f"tokenizer__ggml__{name}": value for name, value in flags.items()}
    data = from_gguf(tmp_path, **SPM, **changes)
    assert (data.add_bos, data.add_space_prefix) == (False, False)


def test_phi_3_swallows_white_space_after_its_tokens() -> None:
    values = {
        "general.architecture": "phi3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "a", "<|user|>", "<|endoftext|>"],
        "tokenizer.ggml.token_type": np.array([2, 3, 1, 4, 3]),
        "tokenizer.ggml.scores": np.zeros(5, np.float32),
    }
    assert gguf_tokenizer(Fields("m", values), 5).strip_after == {"<|user|>"}
    values["general.architecture"] = "llama"
    assert gguf_tokenizer(Fields("m", values), 5).strip_after == frozenset()


def test_gguf_sentence_pieces_have_usual_ids(tmp_path: Path) -> None:
    without = {f"tokenizer__ggml__{name}_token_id": None for name in ("bos", "eos")}
    data = from_gguf(tmp_path, **SPM, **without)
    assert (data.bos_token_id, data.eos_token_ids) == (1, (2,))


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        (None, "scores must be an array of numbers"),
        ([1.0], "scores has 1 entries for 8 tokens"),
        ([float("nan")] * 8, "scores must hold finite numbers"),
        (["x"] * 8, "scores must be an array of numbers"),
    ],
)
def test_gguf_scores_that_are_wrong(tmp_path: Path, scores: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        from_gguf(tmp_path, **SPM | {"tokenizer__ggml__scores": scores})


ADDED = {
    "added_tokens_decoder": {
        "5": {"content": "<|turn|>", "special": True},
        "6": {"content": "<tool>", "special": False},
    }
}


def test_folder_with_a_tokenizer_model(tmp_path: Path) -> None:
    data = from_folder(tmp_path, {"tokenizer.model": "\n\x02x", "tokenizer_config.json": ADDED})
    assert (data.kind, data.json_path) == ("sentencepiece", None)
    assert data.vocabulary_path == tmp_path / "tokenizer.model"
    assert data.add_bos
    assert data.added_tokens == {
        5: AddedToken("<|turn|>", is_special=True),
        6: AddedToken("<tool>", is_special=False),
    }


@pytest.mark.parametrize(
    ("name", "family", "pre"),
    [
        ("tokenizer.model", "llama", "llama-bpe"),
        ("qwen.tiktoken", "llama", "qwen2"),
        ("o200k_base.tiktoken", None, "gpt-4o"),
    ],
)
def test_folder_in_tiktokens_form(tmp_path: Path, name: str, family: Any, pre: str) -> None:
    data = from_folder(tmp_path, {name: "IQ== 0\nIg== 1\n"}, model_type=family)
    assert (data.kind, data.pre) == ("tiktoken", pre)
    assert data.vocabulary_path == tmp_path / name
    assert not data.add_bos


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    files = {"tokenizer.json": "{}", "tokenizer.model": "x", "a.tiktoken": "IQ== 0\n"}
    data = from_folder(tmp_path, files)
    assert (data.kind, data.json_path) == ("tokenizer.json", tmp_path / "tokenizer.json")
    assert (data.vocabulary_path, data.added_tokens) == (None, {})


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"chat_template.jinja": "from file"}, "from file"),
        (
            {"chat_template.jinja": "file", "tokenizer_config.json": {"chat_template": "config"}},
            "file",
        ),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tools", "template": "no"},
                        {"name": "default", "template": "yes"},
                    ]
                }
            },
            "yes",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "tools"}]}}, None),
    ],
)
def test_folder_chat_template(tmp_path: Path, files: Any, template: str | None) -> None:
    assert from_folder(tmp_path, files).chat_template == template


@pytest.mark.parametrize(
    ("files", "config", "complaint"),
    [
        ({}, {"eos_token_id": 8}, r"eos_token_id must be in 0\.\.7"),
        ({}, {"eos_token_id": [4, "x"]}, "eos_token_id must be an integer, not 'x'"),
        ({}, {"bos_token_id": -1}, r"bos_token_id must be in 0\.\.7"),
        ({"tokenizer_config.json": "{"}, {}, "not valid JSON"),
        ({"tokenizer_config.json": {"chat_template": 3}}, {}, "must be a string, not 3"),
        ({"tokenizer_config.json": {"chat_template": "\ud800"}}, {}, "not valid Unicode"),
        ({"chat_template.jinja": "x" * (2 << 20)}, {}, "larger than"),
        ({"a.tiktoken": "", "b.tiktoken": ""}, {}, "has 2 .tiktoken files"),
        ({"a.tiktoken": ""}, {"model_type": "mamba"}, "does not say how texts are split"),
        (
            {"tokenizer.model": "", "tokenizer_config.json": {"added_tokens_decoder": {"8": {}}}},
            {},
            "8 is no id of a vocabulary of 8",
        ),
        (
            {"tokenizer.model": "", "tokenizer_config.json": {"added_tokens_decoder": {"x": {}}}},
            {},
            "damaged entry 'x'",
        ),
    ],
)
def test_folder_refusals(tmp_path: Path, files: Any, config: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        from_folder(tmp_path, files, **config)
