"""The URLs of the API. Each handler reads as: parse, build, answer."""

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.completion.admission import build_completion, check_model
from server.completion.chunks import ChunkWriter
from server.completion.fold import fold
from server.completion.sse import EventStream
from server.disconnect import unless_disconnected
from server.services import Services, get_services
from server.wire.body import parse_json, read_json_body
from server.wire.combinations import check_request
from server.wire.errors import model_loading
from server.wire.schemas import (
    CompletionRequest,
    CompletionResponse,
    ErrorResponse,
    Health,
    ModelCard,
    ModelList,
    StreamOptions,
)

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse},
    "5XX": {"model": ErrorResponse},
}
_COMPLETION_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/CompletionRequest"}}
        },
    }
}
_COMPLETION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CompletionResponse,
        "description": "The completion, or its events when `stream` is true.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **_ERRORS,
}

router = APIRouter()
InjectedServices = Annotated[Services, Depends(get_services)]


async def completion_request(request: Request, services: InjectedServices) -> CompletionRequest:
    """The checked body of a completion request. Raises ApiError."""
    body = parse_json(CompletionRequest, await read_json_body(request))
    check_request(body, allow_unknown_params=services.settings.allow_unknown_params)
    return body


@router.post("/v1/completions", responses=_COMPLETION_ANSWERS, openapi_extra=_COMPLETION_BODY)
async def create_completion(
    request: Request,
    services: InjectedServices,
    body: Annotated[CompletionRequest, Depends(completion_request)],
) -> Response:
    """Continue one or several prompts."""
    completion_id = f"cmpl-{uuid.uuid4().hex}"
    completion = await build_completion(completion_id, body, services)
    writer = ChunkWriter(completion_id, int(time.time()), body.model, services.system_fingerprint)
    if body.stream:
        options = body.stream_options or StreamOptions()
        return EventStream(
            completion,
            writer,
            include_usage=options.include_usage,
            continuous_usage=options.continuous_usage_stats,
            keep_alive_seconds=services.settings.sse_keep_alive_seconds,
        )
    pieces = await unless_disconnected(request.receive, fold(completion))
    return Response(writer.body(pieces, completion.usage.json()), media_type="application/json")


@router.get("/v1/models", responses=_ERRORS)
async def list_models(services: InjectedServices) -> ModelList:
    """The models this server has."""
    return ModelList(data=[_card(name, services) for name in services.model_names])


@router.get("/v1/models/{model_id:path}", responses=_ERRORS)
async def get_model(model_id: str, services: InjectedServices) -> ModelCard:
    """One model."""
    check_model(model_id, services)
    return _card(model_id, services)


@router.get("/health", responses={503: {"model": ErrorResponse}})
async def health(services: InjectedServices) -> Health:
    """Whether requests can be answered at this moment."""
    if not services.engine.is_ready:
        raise model_loading()
    return Health()


def _card(name: str, services: Services) -> ModelCard:
    return ModelCard(
        id=name,
        created=services.created,
        max_model_len=services.engine.info.max_model_len,
    )
