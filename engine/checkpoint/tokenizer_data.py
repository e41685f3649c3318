"""What a tokenizer is built from, as a checkpoint carries it. Builds none: that is the server's.

Reads GGUF metadata, or the allow-listed tokenizer files of a Hugging Face folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from engine.checkpoint.fields import Fields, quote, read_bounded, read_json_object
from engine.checkpoint.generation_config import token_ids
from engine.checkpoint.vocabulary_files import (
    AddedToken,
    added_tokens,
    find_vocabulary,
    tiktoken_pattern,
)
from engine.errors import CheckpointError

_MAX_TOKENIZER_CONFIG_BYTES = 8 << 20
_MAX_TEMPLATE_BYTES = 1 << 20

_TOKENS = "tokenizer.ggml.tokens"
_TOKEN_TYPES = "tokenizer.ggml.token_type"  # noqa: S105 - the name of a key
_MERGES = "tokenizer.ggml.merges"
_SCORES = "tokenizer.ggml.scores"
# GGUF's id of each special token, by its name in `tokenizer_config.json`.
_GGUF_ROLES = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
}
# llama.cpp's names of byte-level tokenizers that begin a text with BOS if the file does not say.
_PRE_WITH_BOS = frozenset(
    {
        *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        "tekken",
    }
)
# GGUF's `tokenizer.ggml.model` for those that can be read, and the ids that it leaves out.
_GGUF_KINDS: dict[str, Literal["gguf-bpe", "gguf-spm"]] = {"gpt2": "gguf-bpe", "llama": "gguf-spm"}
_SPM_IDS = {"bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True, slots=True)
class TokenizerData:
    """A vocabulary, or where it lies, and the ids that have a meaning of their own.

    "gguf-bpe": `tokens` (by id, in the byte-level BPE alphabet), `token_types` (ggml's: 1 normal,
    2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte), `merges` and `pre` (the name of the
    splitting pattern) hold the vocabulary. "gguf-spm": `tokens` (with U+2581 for a space),
    `token_types` and `scores` do; `add_space_prefix` puts a space before a text, and the special
    tokens in `strip_after` swallow white space that follows them. "tokenizer.json":
    `json_path` names the file. "tiktoken" (with `pre`) and "sentencepiece": `vocabulary_path` does,
    and `added_tokens` by id are what the file does not have. All of them are None when the
    checkpoint has no tokenizer. `eos_token_ids` has no duplicates.

    `add_bos`: the checkpoint says that a text begins with `bos_token_id`. For "tokenizer.json" the
    file's own post-processor may add it even when this is False.

    `special_tokens` has the texts of "bos_token", "eos_token", "pad_token" and "unk_token", as far
    as the checkpoint names them; with `tokenizer_class` they only describe.
    """

    kind: Literal["gguf-bpe", "gguf-spm", "tokenizer.json", "tiktoken", "sentencepiece"]
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
    scores: list[float] | None = None
    add_space_prefix: bool = True
    vocabulary_path: Path | None = None
    added_tokens: Mapping[int, AddedToken] = field(default_factory=dict)
    strip_after: frozenset[str] = frozenset()

    def ending_at(self, token_ids: Sequence[int]) -> TokenizerData:
        """The same, with texts that end at these tokens as well."""
        return replace(self, eos_token_ids=_distinct([*token_ids, *self.eos_token_ids]))


def gguf_tokenizer(metadata: Fields, vocab_size: int) -> TokenizerData:
    """The tokenizer in GGUF metadata; CheckpointError when it is damaged or not supported."""
    model = metadata.text("tokenizer.ggml.model", "none")
    if model == "none":
        return _gguf_data(metadata, "gguf-bpe", vocab_size, None)
    if model not in _GGUF_KINDS:
        raise CheckpointError(
            f"{metadata.source}: the tokenizer {quote(model)} is not supported in GGUF, only "
            "byte-level BPE ('gpt2') and SentencePiece's BPE ('llama'); use the model's Hugging "
            "Face folder"
        )
    return _gguf_data(metadata, _GGUF_KINDS[model], vocab_size, _tokens(metadata, vocab_size))


def huggingface_tokenizer(folder: Path, config: Fields, vocab_size: int) -> TokenizerData:
    """The tokenizer of a Hugging Face folder; `config` is its `config.json`."""
    settings = _optional_json(folder / "tokenizer_config.json")
    kind, path = find_vocabulary(folder)
    bos_id = _token_id(config, "bos_token_id", vocab_size)
    is_json = kind == "tokenizer.json"
    return TokenizerData(
        kind=kind,
        tokens=None,
        token_types=None,
        merges=None,
        pre=None if path is None or kind != "tiktoken" else tiktoken_pattern(path, config),
        json_path=path if is_json else None,
        bos_token_id=bos_id,
        eos_token_ids=token_ids(config, "eos_token_id", vocab_size),
        # What SentencePiece's models do where nothing is said; other files say it themselves.
        add_bos=settings.flag("add_bos_token", kind == "sentencepiece") and bos_id is not None,
        chat_template=_chat_template(folder, settings),
        special_tokens=_names_in_settings(settings),
        tokenizer_class=settings.text("tokenizer_class", "") or None,
        vocabulary_path=None if is_json else path,
        added_tokens={} if is_json else added_tokens(settings, vocab_size),
    )


def _gguf_data(
    metadata: Fields,
    kind: Literal["gguf-bpe", "gguf-spm"],
    vocab_size: int,
    tokens: list[str] | None,
) -> TokenizerData:
    num_ids = vocab_size if tokens is None else len(tokens)
    is_spm = kind == "gguf-spm"
    pre = metadata.text("tokenizer.ggml.pre", "default")
    usual_ids = _SPM_IDS if is_spm and num_ids > max(_SPM_IDS.values()) else {}

    def token_id(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}"
        return _token_id(metadata, key, num_ids) if key in metadata else usual_ids.get(name)

    bos_id = token_id("bos_token_id")
    eos_ids = [token_id(name) for name in ("eos_token_id", "eot_token_id", "eom_token_id")]
    wants_bos = metadata.flag("tokenizer.ggml.add_bos_token", is_spm or pre in _PRE_WITH_BOS)
    return TokenizerData(
        kind=kind,
        tokens=tokens,
        token_types=None if tokens is None else _token_types(metadata, len(tokens)),
        merges=None if tokens is None or is_spm else _merges(metadata, tokens),
        pre=None if tokens is None or is_spm else pre,
        json_path=None,
        bos_token_id=bos_id,
        eos_token_ids=_distinct(eos_ids),
        add_bos=wants_bos and bos_id is not None,
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
        special_tokens={} if tokens is None else _names_by_id(metadata, tokens),
        scores=_scores(metadata, len(tokens)) if is_spm and tokens is not None else None,
        add_space_prefix=metadata.flag("tokenizer.ggml.add_space_prefix", True),
        strip_after=_strip_after(metadata, tokens) if is_spm and tokens else frozenset(),
    )


def _strip_after(metadata: Fields, tokens: list[str]) -> frozenset[str]:
    """What Phi-3's own tokenizer says of its tokens, and GGUF has no key for."""
    if metadata.values.get("general.architecture") != "phi3":
        return frozenset()
    types = _token_types(metadata, len(tokens))
    special = {token for token, kind in zip(tokens, types, strict=True) if kind in (3, 4)}
    return frozenset(special - {"<unk>", "<s>", "<|endoftext|>"})


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


def _scores(metadata: Fields, num_tokens: int) -> list[float]:
    scores = metadata.values.get(_SCORES)
    if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "if":
        raise metadata.error(_SCORES, "must be an array of numbers")
    if len(scores) != num_tokens:
        raise metadata.error(_SCORES, f"has {len(scores)} entries for {num_tokens} tokens")
    if not np.isfinite(scores).all():
        raise metadata.error(_SCORES, "must hold finite numbers")
    return [float(score) for score in scores.tolist()]


def _strings(metadata: Fields, key: str) -> list[str]:
    values = metadata.values.get(key)
    if not isinstance(values, list):
        raise metadata.error(key, "must be an array of strings")
    return values


def _token_id(fields: Fields, key: str, vocab_size: int) -> int | None:
    return fields.integer(key, low=0, high=vocab_size - 1) if key in fields else None


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
