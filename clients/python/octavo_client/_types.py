"""What the API sends and takes, as types. Fields that are not known here are kept.

Results are pydantic models; what goes in is a TypedDict and is checked by the server alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from typing_extensions import Required, TypedDict


class StreamOptions(TypedDict, total=False):
    include_usage: bool
    continuous_usage_stats: bool


class CompletionParams(TypedDict, total=False):
    """The parameters of a completion. The second group is Octavo's own and other servers'."""

    model: Required[str]
    prompt: Required[str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]]
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


class _Result(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Logprobs(_Result):
    """Parallel lists over the tokens of a choice. The first entry of an echoed prompt is None."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int]


class CompletionChoice(_Result):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Usage(_Result):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(_Result):
    """A whole answer, or one chunk of a stream: both have this form."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    usage: Usage | None = None
    system_fingerprint: str | None = None


class Model(_Result):
    id: str
    object: str = "model"
    created: int | None = None
    owned_by: str | None = None


class ModelList(_Result):
    data: list[Model]
    object: str = "list"


class Health(_Result):
    status: str | None = None
