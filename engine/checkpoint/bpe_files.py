"""A byte-level BPE vocabulary in GPT-2's own files: `vocab.json` and `merges.txt`.

What folders from before `tokenizer.json` carry. Both are written in GPT-2's alphabet, one printable
character for each byte value. Tokens added later stand in `added_tokens.json`, or in
`tokenizer_config.json` under `added_tokens_decoder`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.checkpoint.fields import Fields, quote, read_bounded, read_json_object
from engine.checkpoint.tokenizer_data import TokenizerData
from engine.errors import CheckpointError

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
_SETTINGS_FILE = "tokenizer_config.json"
_SPECIAL_FILE = "special_tokens_map.json"
_ADDED_FILE = "added_tokens.json"
_ADDED_SETTING = "added_tokens_decoder"
_MAX_BYTES = 64 << 20
_MAX_TOKENS = 1 << 22
# GPT-2's only special token, which its files do not mark as one.
END_OF_TEXT = "<|endoftext|>"
# Of ggml's types: what `TokenizerData.token_types` is written in.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def with_bpe_files(
    data: TokenizerData, folder: Path, config: Fields, vocab_size: int
) -> TokenizerData:
    """`data` with the vocabulary of these files, where the folder has them and no `tokenizer.json`,
    and splits texts into words as GPT-2 does.

    `config` is its `config.json`. CheckpointError, in one line, when the files are damaged.
    """
    has_files = (folder / VOCAB_FILE).exists() and (folder / MERGES_FILE).exists()
    is_gpt2 = config.text("model_type", "") == "gpt2"
    kind = data.tokenizer_class or ("GPT2Tokenizer" if is_gpt2 else "")
    if (folder / "tokenizer.json").exists() or not has_files:
        return data
    if kind.removesuffix("Fast") != "GPT2Tokenizer":
        return data
    vocab = read_json_object(folder / VOCAB_FILE, _MAX_BYTES)
    ids = {token: _token_id(vocab, token) for token in vocab.values}
    special = {END_OF_TEXT, *data.special_tokens.values(), *_special_tokens(folder)}
    types = {ids[token]: _CONTROL if token in special else _NORMAL for token in ids}
    for token, (token_id, is_special) in _added_tokens(folder).items():
        if ids.get(token, token_id) != token_id:
            raise vocab.error(token, f"has the id {ids[token]} here and {token_id} as added token")
        ids[token] = token_id
        types[token_id] = _CONTROL if is_special or token in special else _USER_DEFINED
    tokens = {token_id: token for token, token_id in ids.items()}
    in_order = range(len(ids))
    if sorted(tokens) != list(in_order):
        raise CheckpointError(
            f"{vocab.source}: the ids of its {len(ids)} tokens, with those added later, must be 0 "
            f"to {len(ids) - 1}, each once"
        )
    if len(ids) > vocab_size:
        raise CheckpointError(f"{vocab.source}: has {len(ids)} tokens for {vocab_size} embeddings")
    return replace(
        data,
        kind="gguf-bpe",
        tokens=[tokens[i] for i in in_order],
        token_types=[types[i] for i in in_order],
        merges=_merges(folder, ids),
        pre="gpt-2",
    )


def _token_id(vocab: Fields, token: str) -> int:
    return vocab.integer(token, low=0, high=_MAX_TOKENS)


def _special_tokens(folder: Path) -> list[str]:
    """A token is a string there, or an object that has it as `content`."""
    values = _optional_json(folder / _SPECIAL_FILE).values.values()
    texts = [value.get("content") if isinstance(value, dict) else value for value in values]
    return [text for text in texts if isinstance(text, str)]


def _added_tokens(folder: Path) -> dict[str, tuple[int, bool]]:
    """Id, and whether it is special, by text."""
    listed = _optional_json(folder / _ADDED_FILE)
    added = {token: (_token_id(listed, token), False) for token in listed.values}
    section = _optional_json(folder / _SETTINGS_FILE).section(_ADDED_SETTING)
    if section is None:
        return added
    for key in section.values:
        entry = section.section(key)
        if entry is None or not key.isascii() or not key.isdigit() or len(key) > 9:
            raise section.error(key, "must be an id and an object")
        added[entry.text("content")] = (int(key), entry.flag("special", False))
    return added


def _optional_json(path: Path) -> Fields:
    return read_json_object(path, _MAX_BYTES) if path.exists() else Fields(str(path), {})


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
