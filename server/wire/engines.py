"""The wire format of OpenAI's first API, where a model was an engine and stood in the URL."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from server.wire.schemas import CompletionRequest, Nullable


class EngineCompletionRequest(CompletionRequest):
    """POST /v1/engines/{engine}/completions."""

    model: Nullable[str] = Field(default="", description="Not used: the URL names the model.")


class EngineCard(BaseModel):
    id: str
    object: Literal["engine"] = "engine"
    created: int
    owner: str = "octavo"
    ready: bool


class EngineList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EngineCard]
