"""A byte-level BPE vocabulary in GPT-2's own files: `vocab.json` and `merges.txt`.

What folders from before `tokenizer.json` carry. Both are written in GPT-2's alphabet, one printable
character for each byte value. Tokens added later stand in `added_tokens.json`, or in
`tokenizer_config.json` under `added_tokens_decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint.fields import Fields, quote, read_bounded, read_json_object
from engine.errors import CheckpointError

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
_ADDED_FILE = "added_tokens.json"
_ADDED_SETTING = "added_tokens_decoder"
_MAX_BYTES = 64 << 20
_MAX_TOKENS = 1 << 22
# GPT-2's only special token, which its files do not mark as one.
END_OF_TEXT = "<|endoftext|>"
# Of ggml's types: what `TokenizerData.token_types` is written in.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


@dataclass(frozen=True, slots=True)
class BpeVocabulary:
    """Tokens and their types by id, and the merges in their order, "left right" each."""

    tokens: list[str]
    token_types: list[int]
    merges: list[str]


def read_bpe_files(folder: Path, settings: Fields, special_tokens: set[str]) -> BpeVocabulary:
    """The vocabulary in a folder's files; CheckpointError, in one line, when they are damaged.

    `settings` is the folder's `tokenizer_config.json`; `special_tokens` are those that it or
    `config.json` names.
    """
    vocab = read_json_object(folder / VOCAB_FILE, _MAX_BYTES)
    ids = {token: _token_id(vocab, token) for token in vocab.values}
    added = _added_tokens(folder, settings)
    controls = special_tokens | {END_OF_TEXT}
    types = {
        token_id: _CONTROL if token in controls else _NORMAL for token, token_id in ids.items()
    }
    for token, (token_id, is_special) in added.items():
        if ids.get(token, token_id) != token_id:
            raise vocab.error(token, f"has the id {ids[token]} here and {token_id} as added token")
        ids[token] = token_id
        is_control = is_special or token in controls
        types[token_id] = _CONTROL if is_control else _USER_DEFINED
    tokens = {token_id: token for token, token_id in ids.items()}
    if len(tokens) != len(ids) or sorted(tokens) != list(range(len(tokens))):
        raise CheckpointError(
            f"{vocab.source}: the ids of its {len(ids)} tokens, with those added later, must be 0 "
            f"to {len(ids) - 1}, each once"
        )
    in_order = range(len(tokens))
    return BpeVocabulary(
        [tokens[i] for i in in_order], [types[i] for i in in_order], _merges(folder, ids)
    )


def _token_id(vocab: Fields, token: str) -> int:
    return vocab.integer(token, low=0, high=_MAX_TOKENS)


def _added_tokens(folder: Path, settings: Fields) -> dict[str, tuple[int, bool]]:
    """Id, and whether it is special, by text."""
    added: dict[str, tuple[int, bool]] = {}
    if (folder / _ADDED_FILE).exists():
        listed = read_json_object(folder / _ADDED_FILE, _MAX_BYTES)
        added |= {token: (_token_id(listed, token), False) for token in listed.values}
    section = settings.section(_ADDED_SETTING)
    for key in section.values if section is not None else ():
        assert section is not None
        entry = section.section(key)
        if entry is None or not key.isascii() or not key.isdigit() or len(key) > 9:
            raise section.error(key, "must be an id and an object")
        added[entry.text("content")] = (int(key), entry.flag("special", False))
    return added


def _merges(folder: Path, ids: dict[str, int]) -> list[str]:
    path = folder / MERGES_FILE
    try:
        lines = read_bounded(path, _MAX_BYTES).decode().split("\n")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: not valid UTF-8") from None
    merges = [line.rstrip("\r") for line in lines if line.strip()]
    if merges and merges[0].startswith("#version"):
        del merges[0]
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise CheckpointError(
                f"{path}: {quote(merge)} does not join two tokens of {VOCAB_FILE}"
            )
    return merges
