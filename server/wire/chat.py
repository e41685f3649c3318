"""The wire format of /apply-template, in the shape llama.cpp gave it. Strict, as everywhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from server.wire.limits import MAX_MESSAGES, MAX_ROLE_LENGTH
from server.wire.parameter_names import check_names
from server.wire.schemas import Nullable, Part


class Message(Part):
    """One turn of a conversation. Which roles there are is the template's affair."""

    role: Annotated[str, Field(min_length=1, max_length=MAX_ROLE_LENGTH)]
    content: str


class ApplyTemplateRequest(BaseModel):
    """POST /apply-template."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="allow")

    model: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    add_generation_prompt: Nullable[bool] = True

    def check(self, *, allow_unknown_params: bool) -> None:
        """Raises ApiError 400 for a name that is no parameter."""
        check_names(self.model_extra or {}, type(self).model_fields, allow_unknown_params)


class ApplyTemplateResponse(BaseModel):
    """`stop_token_ids` end an answer as the template writes it; often they end a text anyway."""

    prompt: str
    stop_token_ids: list[int]
