"""What a model says of its tokenizer besides the vocabulary; the names are Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine import TokenizerData


@dataclass(frozen=True, slots=True)
class TokenizerDescription:
    """As in `tokenizer_config.json`; None is what the model does not have or does not say."""

    tokenizer_class: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    add_bos_token: bool
    chat_template: str | None


def describe(
    data: TokenizerData, special_names: Mapping[int, str], *, add_bos: bool
) -> TokenizerDescription:
    """`special_names` (text by id) helps out where the checkpoint gives an id alone."""
    texts = data.special_tokens
    bos_ids = () if data.bos_token_id is None else (data.bos_token_id,)
    return TokenizerDescription(
        tokenizer_class=data.tokenizer_class,
        bos_token=texts.get("bos_token") or _first_name(bos_ids, special_names),
        eos_token=texts.get("eos_token") or _first_name(data.eos_token_ids, special_names),
        pad_token=texts.get("pad_token"),
        unk_token=texts.get("unk_token"),
        add_bos_token=add_bos,
        chat_template=data.chat_template,
    )


def _first_name(token_ids: tuple[int, ...], special_names: Mapping[int, str]) -> str | None:
    return next((special_names[i] for i in token_ids if i in special_names), None)
