"""What a tokenizer is built from, as a checkpoint carries it. Builds none: that is the server's.

Reads GGUF metadata, or the allow-listed tokenizer files of a Hugging Face folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from engine.checkpoint.fields import Fields, quote, read_bounded, read_json_object
from engine.errors import CheckpointError

_MAX_TOKENIZER_CONFIG_BYTES = 8 << 20
_MAX_TEMPLATE_BYTES = 1 << 20

_TOKENS = "tokenizer.ggml.tokens"
_TOKEN_TYPES = "tokenizer.ggml.token_type"  # noqa: S105 - the name of a key
_MERGES = "tokenizer.ggml.merges"
# GGUF's id of each special token, by its name in `tokenizer_config.json`.
_GGUF_ROLES = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
}
# llama.cpp's names for Llama 3's tokenizer, the one byte-level BPE that begins every text with BOS.
_PRE_WITH_BOS = frozenset({"llama-bpe", "llama3", "llama-v3"})


@dataclass(frozen=True, slots=True)
class TokenizerData:
    """A vocabulary, or where it lies, and the ids that have a meaning of their own.

    "gguf-bpe": `tokens` (by id, in the byte-level BPE alphabet), `token_types` (ggml's: 1 normal,
    2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte), `merges` and `pre` (the name of the
    splitting pattern) hold the vocabulary; "tokenizer.json": `json_path` names the file. All of
    them are None when the checkpoint has no tokenizer. `eos_token_ids` has no duplicates.

    `add_bos`: the checkpoint says that a text begins with `bos_token_id`. For "tokenizer.json" the
    file's own post-processor may add it even when this is False.

    `special_tokens` has the texts of "bos_token", "eos_token", "pad_token" and "unk_token", as far
    as the checkpoint names them; with `tokenizer_class` they only describe.
    """

    kind: Literal["gguf-bpe", "tokenizer.json"]
    tokens: list[str] | None
    token_types: list[int] | None
    merges: list[str] | None
    pre: str | None
    json_path: Path | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    chat_template: str | None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    tokenizer_class: str | None = None


def gguf_tokenizer(metadata: Fields, vocab_size: int) -> TokenizerData:
    """The tokenizer in GGUF metadata; CheckpointError when it is damaged or not byte-level BPE."""
    model = metadata.text("tokenizer.ggml.model", "none")
    if model not in ("gpt2", "none"):
        raise CheckpointError(
            f"{metadata.source}: the tokenizer {quote(model)} is not supported in GGUF, only "
            "byte-level BPE ('gpt2'); use the model's Hugging Face folder"
        )
    if model == "none":
        return _gguf_data(metadata, vocab_size, None)
    return _gguf_data(metadata, vocab_size, _tokens(metadata, vocab_size))


def huggingface_tokenizer(folder: Path, config: Fields, vocab_size: int) -> TokenizerData:
    """The tokenizer of a Hugging Face folder; `config` is its `config.json`."""
    settings = _optional_json(folder / "tokenizer_config.json")
    generation = _optional_json(folder / "generation_config.json")
    json_path = folder / "tokenizer.json"
    bos_id = _token_id(config, "bos_token_id", vocab_size)
    eos_ids = [
        *_token_ids(generation, "eos_token_id", vocab_size),
        *_token_ids(config, "eos_token_id", vocab_size),
    ]
    return TokenizerData(
        kind="tokenizer.json",
        tokens=None,
        token_types=None,
        merges=None,
        pre=None,
        json_path=json_path if json_path.is_file() else None,
        bos_token_id=bos_id,
        eos_token_ids=_distinct(eos_ids),
        add_bos=settings.flag("add_bos_token", False) and bos_id is not None,
        chat_template=_chat_template(folder, settings),
        special_tokens=_names_in_settings(settings),
        tokenizer_class=settings.text("tokenizer_class", "") or None,
    )


def _gguf_data(metadata: Fields, vocab_size: int, tokens: list[str] | None) -> TokenizerData:
    num_ids = vocab_size if tokens is None else len(tokens)
    pre = metadata.text("tokenizer.ggml.pre", "default")
    bos_id = _token_id(metadata, "tokenizer.ggml.bos_token_id", num_ids)
    eos_keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    eos_ids = [_token_id(metadata, f"tokenizer.ggml.{key}", num_ids) for key in eos_keys]
    wants_bos = metadata.flag("tokenizer.ggml.add_bos_token", pre in _PRE_WITH_BOS)
    return TokenizerData(
        kind="gguf-bpe",
        tokens=tokens,
        token_types=None if tokens is None else _token_types(metadata, len(tokens)),
        merges=None if tokens is None else _merges(metadata, tokens),
        pre=None if tokens is None else pre,
        json_path=None,
        bos_token_id=bos_id,
        eos_token_ids=_distinct(eos_ids),
        add_bos=wants_bos and bos_id is not None,
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
        special_tokens={} if tokens is None else _names_by_id(metadata, tokens),
    )


def _tokens(metadata: Fields, vocab_size: int) -> list[str]:
    tokens = _strings(metadata, _TOKENS)
    if len(tokens) > vocab_size:
        raise metadata.error(_TOKENS, f"has {len(tokens)} tokens for {vocab_size} embeddings")
    if len(set(tokens)) != len(tokens):
        raise metadata.error(_TOKENS, "has the same token twice")
    return tokens


def _token_types(metadata: Fields, num_tokens: int) -> list[int]:
    types = metadata.values.get(_TOKEN_TYPES)
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu":
        raise metadata.error(_TOKEN_TYPES, "must be an array of integers")
    if len(types) != num_tokens:
        raise metadata.error(_TOKEN_TYPES, f"has {len(types)} entries for {num_tokens} tokens")
    if types.size and not 1 <= types.min() <= types.max() <= 6:
        raise metadata.error(_TOKEN_TYPES, "must hold types 1 to 6")
    return [int(kind) for kind in types.tolist()]


def _merges(metadata: Fields, tokens: list[str]) -> list[str]:
    merges = _strings(metadata, _MERGES)
    known = set(tokens)
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise metadata.error(_MERGES, f"has {quote(merge)}, which does not join two tokens")
    return merges


def _strings(metadata: Fields, key: str) -> list[str]:
    values = metadata.values.get(key)
    if not isinstance(values, list):
        raise metadata.error(key, "must be an array of strings")
    return values


def _token_id(fields: Fields, key: str, vocab_size: int) -> int | None:
    return fields.integer(key, low=0, high=vocab_size - 1) if key in fields else None


def _token_ids(fields: Fields, key: str, vocab_size: int) -> list[int | None]:
    """One id or a list of them."""
    values = fields.values.get(key)
    if not isinstance(values, list):
        return [_token_id(fields, key, vocab_size)]
    return [_token_id(Fields(fields.source, {key: value}), key, vocab_size) for value in values]


def _distinct(token_ids: list[int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(token_id for token_id in token_ids if token_id is not None))


def _names_by_id(metadata: Fields, tokens: list[str]) -> dict[str, str]:
    """An id that is none of the vocabulary's means that there is no such token."""
    ids = {role: metadata.values.get(key) for role, key in _GGUF_ROLES.items()}
    return {
        role: tokens[token_id]
        for role, token_id in ids.items()
        if isinstance(token_id, int) and 0 <= token_id < len(tokens)
    }


def _names_in_settings(settings: Fields) -> dict[str, str]:
    """A token is a string there, or an object that has it as `content`."""
    names = {}
    for role in _GGUF_ROLES:
        value = settings.values.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            names[role] = Fields(settings.source, {role: value}).text(role)
    return names


def _optional_json(path: Path) -> Fields:
    if not path.exists():
        return Fields(str(path), {})
    return read_json_object(path, _MAX_TOKENIZER_CONFIG_BYTES)


def _chat_template(folder: Path, settings: Fields) -> str | None:
    """`chat_template.jinja`, else the template in `tokenizer_config.json`: one, or one of several
    as [{"name": "default", "template": ...}, ...]."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_bounded(path, _MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: not valid UTF-8") from None
    templates = settings.values.get("chat_template")
    if not isinstance(templates, list):
        return settings.text("chat_template", "") or None
    for template in templates:
        if isinstance(template, dict) and template.get("name") == "default":
            named = Fields(f"{settings.source}: chat_template", template)
            return named.text("template")
    return None
