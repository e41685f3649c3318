"""What the API sends and takes, as types. Fields that are not known here are kept.

Results are pydantic models; what goes in is a TypedDict and its values are checked by the server
alone. Where servers write the same thing differently, the models read each way of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Required, TypedDict

from octavo_client._config import Query, Timeout

Prompt = str | Sequence[int]
"""A text or the ids of its tokens."""


class StreamOptions(TypedDict, total=False):
    include_usage: bool
    continuous_usage_stats: bool
    include_obfuscation: bool


class SamplingParams(TypedDict, total=False):
    """How to complete. The second group is Octavo's own and other servers'."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    n: int | None
    stream_options: StreamOptions | None
    stop: str | Sequence[str] | None
    seed: int | None
    logprobs: int | None
    echo: bool | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[str, float] | None
    best_of: int | None
    suffix: str | None
    user: str | None

    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    min_tokens: int | None
    ignore_eos: bool | None
    stop_token_ids: Sequence[int] | None
    include_stop_str_in_output: bool | None
    allowed_token_ids: Sequence[int] | None
    bad_words: Sequence[str] | None
    add_special_tokens: bool | None
    skip_special_tokens: bool | None
    spaces_between_special_tokens: bool | None
    truncate_prompt_tokens: int | None
    truncation_side: Literal["left", "right"] | None
    prompt_logprobs: int | None
    return_tokens_as_token_ids: bool | None
    return_token_ids: bool | None
    priority: int | None
    cache_salt: str | None
    use_beam_search: bool | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None


class CompletionParams(SamplingParams, total=False):
    """What is to be completed, and how."""

    model: Required[str]
    prompt: Required[str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]]


class CallOptions(TypedDict, total=False):
    """What goes around any call. `extra_body` is for parameters that this client has no name for.

    `timeout` is in seconds without a sign of life, None for no end, or an `httpx.Timeout`.
    """

    extra_headers: Mapping[str, str] | None
    extra_query: Query | None
    extra_body: Mapping[str, object] | None
    timeout: Timeout


class CreateParams(CompletionParams, CallOptions, total=False):
    """All that `completions.create` takes, but for `stream`."""


class ManyParams(SamplingParams, CallOptions, total=False):
    """All that `completions.create_many` takes for each of its prompts."""

    model: Required[str]


class BaseResult(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    # As in the `openai` library: what the server's log calls the request, None if it did not say.
    _request_id: str | None = PrivateAttr(default=None)


class Logprobs(BaseResult):
    """Parallel lists over the tokens of a choice. The first entry of an echoed prompt is None.

    llama.cpp answers in the form of chats, a list `content` of tokens: it is read into these.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] = []

    @model_validator(mode="before")
    @classmethod
    def _from_chat_form(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "tokens" in value:
            return value
        content = value.get("content")
        if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
            return value
        tokens = [str(item.get("token", "")) for item in content]
        ends = [0]
        for token in tokens:
            ends.append(ends[-1] + len(token))
        likeliest = [item.get("top_logprobs") or [] for item in content]
        return {
            **value,
            "tokens": tokens,
            "token_logprobs": [item.get("logprob") for item in content],
            "top_logprobs": [{t["token"]: t["logprob"] for t in top} for top in likeliest],
            "text_offset": ends[:-1],
        }


class CompletionChoice(BaseResult):
    text: str
    index: int = 0
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Usage(BaseResult):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class Completion(BaseResult):
    """A whole answer, or one chunk of a stream: both have this form."""

    choices: list[CompletionChoice]
    id: str = ""
    created: int = 0
    model: str = ""
    object: str = "text_completion"
    usage: Usage | None = None
    system_fingerprint: str | None = None


class Model(BaseResult):
    id: str
    object: str = "model"
    created: int | None = None
    owned_by: str | None = None


class ModelList(BaseResult):
    """The models in `data`, over which it also iterates."""

    data: list[Model]
    object: str = "list"

    def __iter__(self) -> Generator[Model, None, None]:  # type: ignore[override]
        # pydantic would iterate over the fields, which nobody wants of a list.
        yield from self.data


class Health(BaseResult):
    status: str | None = None


class Tokenization(BaseResult):
    """The ids of a text's tokens; `token_strs` is their texts, if asked for."""

    tokens: list[int]
    count: int
    max_model_len: int | None = None
    token_strs: list[str] | None = None


class Detokenization(BaseResult):
    """The text of token ids. Servers call it `prompt`, `text` or `content`."""

    prompt: str = Field(validation_alias=AliasChoices("prompt", "text", "content"))
