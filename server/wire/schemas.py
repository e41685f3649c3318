"""The wire format of the completions API: what is accepted (strictly) and what is answered.

The request model parses; the answer models only document, because answers are written directly
(`chunks.py`). Every nullable field takes null as its default. Limits of the model are not known
here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUseDefault
from pydantic_core.core_schema import no_info_before_validator_function, nullable_schema

from server.wire.fields import (
    Prompt,
    parse_allowed_token_ids,
    parse_bad_words,
    parse_cache_salt,
    parse_early_stopping,
    parse_logit_bias,
    parse_prompts,
    parse_stop,
)
from server.wire.limits import (
    MAX_BAD_WORD_LENGTH,
    MAX_BAD_WORDS,
    MAX_BEST_OF,
    MAX_CACHE_SALT_LENGTH,
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_NAMES,
    MAX_PROMPTS,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    MAX_TOKENS,
    MAX_USER_LENGTH,
)

T = TypeVar("T")


def _default_for_null(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


class _NullIsDefault:
    """Annotates a field: null is its default, and /openapi.json says that null may be sent."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        return no_info_before_validator_function(
            _default_for_null, schema, json_schema_input_schema=nullable_schema(schema)
        )


Nullable = Annotated[T, _NullIsDefault()]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]

_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_NULL = {"type": "null"}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
        _TOKEN_IDS,
        {"type": "array", "items": _TOKEN_IDS, "minItems": 1, "maxItems": MAX_PROMPTS},
        {"type": "null"},
    ]
}
_STOP_STRING = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_STOP_SCHEMA = {
    "anyOf": [
        _STOP_STRING,
        {"type": "array", "items": _STOP_STRING, "maxItems": MAX_STOP_STRINGS},
        {"type": "null"},
    ]
}
_BAD_WORD = {"type": "string", "minLength": 1, "maxLength": MAX_BAD_WORD_LENGTH}
_BAD_WORDS_SCHEMA = {
    "anyOf": [{"type": "array", "items": _BAD_WORD, "maxItems": MAX_BAD_WORDS}, _NULL]
}
_CACHE_SALT = {"type": "string", "minLength": 1, "maxLength": MAX_CACHE_SALT_LENGTH}
_CACHE_SALT_SCHEMA = {"anyOf": [_CACHE_SALT | {"pattern": r"^[^@/\\\x00]+$"}, _NULL]}
_EARLY_STOPPING_SCHEMA = {"anyOf": [{"type": "boolean"}, {"const": "never"}, _NULL]}
_LOGIT_BIAS_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "maxProperties": MAX_LOGIT_BIAS,
        },
        {"type": "null"},
    ]
}


class Part(BaseModel):
    """An object within a request. It has no names but these."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_names(cls, data: Any) -> Any:
        """Each strange one would be a finding, many times as large as the name."""
        if isinstance(data, dict) and len(data) > MAX_NAMES:
            raise PydanticCustomError("too_many_properties", "", {"length": len(data)})
        return data


class StreamOptions(Part):
    """What a stream carries besides text."""

    include_usage: Nullable[bool] = False
    continuous_usage_stats: Nullable[bool] = False
    include_obfuscation: Nullable[bool] = Field(default=False, description="Accepted, no effect.")


class CompletionRequest(BaseModel):
    """POST /v1/completions."""

    model_config = ConfigDict(
        strict=True, allow_inf_nan=False, hide_input_in_errors=True, extra="allow"
    )

    model: str = Field(min_length=1)
    prompt: Annotated[list[Prompt], PlainValidator(parse_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
    best_of: Annotated[int, Field(ge=0, le=MAX_BEST_OF)] | None = None
    echo: Nullable[bool] = False
    frequency_penalty: Nullable[Penalty] = 0.0
    logit_bias: Annotated[
        dict[int, float], PlainValidator(parse_logit_bias), WithJsonSchema(_LOGIT_BIAS_SCHEMA)
    ] = Field(default_factory=dict)
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    max_tokens: Nullable[Annotated[int, Field(ge=0, le=MAX_TOKENS)]] = 16
    n: Nullable[Annotated[int, Field(ge=1, le=MAX_CHOICES)]] = 1
    presence_penalty: Nullable[Penalty] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[list[str], PlainValidator(parse_stop), WithJsonSchema(_STOP_SCHEMA)] = Field(
        default_factory=list
    )
    stream: Nullable[bool] = False
    stream_options: StreamOptions | None = None
    suffix: Nullable[str] = ""
    temperature: Nullable[Annotated[float, Field(ge=0, le=2)]] = 1.0
    top_p: Nullable[Probability] = 1.0
    user: Annotated[str, Field(max_length=MAX_USER_LENGTH)] | None = None
    # Not OpenAI's: what other servers and their clients added.
    top_k: Nullable[Annotated[int, Field(ge=-1, le=2**31 - 1)]] = 0
    min_p: Nullable[Probability] = 0.0
    repetition_penalty: Nullable[Annotated[float, Field(gt=0, le=10)]] = 1.0
    min_tokens: Nullable[Annotated[int, Field(ge=0, le=MAX_TOKENS)]] = 0
    ignore_eos: Nullable[bool] = False
    stop_token_ids: Nullable[Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS)]] = (
        Field(default_factory=list)
    )
    include_stop_str_in_output: Nullable[bool] = False
    allowed_token_ids: Annotated[
        list[int] | None,
        PlainValidator(parse_allowed_token_ids),
        WithJsonSchema({"anyOf": [_TOKEN_IDS, _NULL]}),
    ] = None
    bad_words: Annotated[
        list[str], PlainValidator(parse_bad_words), WithJsonSchema(_BAD_WORDS_SCHEMA)
    ] = Field(default_factory=list)
    add_special_tokens: Nullable[bool] = True
    skip_special_tokens: Nullable[bool] = True
    spaces_between_special_tokens: Nullable[bool] = Field(
        default=True, description="Accepted, no effect: no vocabulary here has such spaces."
    )
    truncate_prompt_tokens: (
        Annotated[int, Field(ge=-1, le=MAX_TOKENS, json_schema_extra={"not": {"const": 0}})] | None
    ) = None
    truncation_side: Nullable[Literal["left", "right"]] = "left"
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    return_tokens_as_token_ids: Nullable[bool] = False
    return_token_ids: Nullable[bool] = False
    priority: Nullable[Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]] = 0
    cache_salt: Annotated[
        str, PlainValidator(parse_cache_salt), WithJsonSchema(_CACHE_SALT_SCHEMA)
    ] = ""
    use_beam_search: Nullable[bool] = False
    length_penalty: Nullable[Annotated[float, Field(ge=-100, le=100)]] = 1.0
    early_stopping: Annotated[
        bool | Literal["never"],
        PlainValidator(parse_early_stopping),
        WithJsonSchema(_EARLY_STOPPING_SCHEMA),
    ] = False

    @property
    def num_generated(self) -> int:
        """How many choices of each prompt are generated; `n` of them are returned."""
        return max(self.n, self.best_of or 0)


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class UsageModel(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class LogprobsModel(BaseModel):
    """Four lists that run in parallel, one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class ChoiceModel(BaseModel):
    text: str
    index: int
    logprobs: LogprobsModel | None
    finish_reason: Literal["stop", "length"] | None


class CompletionResponse(BaseModel):
    """The answer, and each event of a stream (there `finish_reason` may be null)."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceModel]
    usage: UsageModel | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error, on every path."""

    error: ErrorDetail


class ModelCard(BaseModel):
    """`max_model_len` is what is served, `context_length` what the model was made for;
    `quantization` is the type of most weights in the file."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "octavo"
    max_model_len: int
    context_length: int | None = None
    family: str | None = None
    quantization: str | None = None
    num_parameters: int | None = None
    format: str | None = None
    source: str | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
