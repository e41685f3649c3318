"""The wire format of the endpoints about tokens, in the shape vLLM gave them.

Strict like the completions API. A prompt is bounded by the body alone. The answers only document:
`server/tokenization.py` writes them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from server.wire.errors import bad_request
from server.wire.fields import parse_token_ids
from server.wire.parameter_names import check_names, unsupported
from server.wire.schemas import Nullable

_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}


class _TokensRequest(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="allow")

    model: Annotated[str, Field(min_length=1)] | None = None

    def check(self, *, allow_unknown_params: bool) -> None:
        """Raises ApiError 400 for a name that is no parameter."""
        check_names(self.model_extra or {}, type(self).model_fields, allow_unknown_params)


class TokenizeRequest(_TokensRequest):
    """POST /tokenize."""

    prompt: str
    add_special_tokens: Nullable[bool] = True
    return_token_strs: Nullable[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_forms(cls, data: Any) -> Any:
        """Better than to say that the prompt is missing."""
        if isinstance(data, dict) and "prompt" not in data:
            if "messages" in data:
                raise unsupported("messages", "this server has no chat; use 'prompt'")
            if "content" in data:
                raise bad_request(
                    None,
                    "unknown_parameter",
                    "Unrecognized request argument supplied: content. Did you mean 'prompt'?",
                )
        return data


class TokenizeResponse(BaseModel):
    """`token_strs` is null unless asked for; a token is written as in log-probabilities."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(_TokensRequest):
    """POST /detokenize."""

    tokens: Annotated[
        list[int],
        PlainValidator(lambda value: parse_token_ids("tokens", value)),
        WithJsonSchema(_TOKEN_IDS),
    ]


class DetokenizeResponse(BaseModel):
    """The text with its special tokens, so that tokenizing it gives the same ids again."""

    prompt: str


class TokenizerInfo(BaseModel):
    """What `tokenizer_config.json` would say. Null: the model has no such token, or no name."""

    tokenizer_class: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    add_bos_token: bool
    model_max_length: int
    chat_template: str | None
