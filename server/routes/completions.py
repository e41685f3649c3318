"""Completions: one answer, or a stream of events."""

import time
import uuid
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from server.completion.admission import build_completion
from server.completion.chunks import ChunkWriter
from server.completion.fold import fold
from server.completion.sse import EventStream
from server.disconnect import unless_disconnected
from server.routes.described import ERRORS, EVENT, json_body
from server.services import InjectedServices, InjectedTenant, Services
from server.wire.body import parse_json, read_json_body
from server.wire.combinations import check_request
from server.wire.schemas import CompletionRequest, CompletionResponse, StreamOptions

Body = TypeVar("Body", bound=CompletionRequest)

COMPLETION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CompletionResponse,
        "description": "The completion, or its events when `stream` is true.",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    },
    **ERRORS,
}

router = APIRouter()


async def read_completion(model: type[Body], request: Request, services: Services) -> Body:
    """The checked body of a completion request. Raises ApiError."""
    body = parse_json(model, await read_json_body(request))
    check_request(body, allow_unknown_params=services.settings.allow_unknown_params)
    return body


async def completion_request(request: Request, services: InjectedServices) -> CompletionRequest:
    """The checked body of `POST /v1/completions`. Raises ApiError."""
    return await read_completion(CompletionRequest, request, services)


@router.post(
    "/v1/completions", responses=COMPLETION_ANSWERS, openapi_extra=json_body(CompletionRequest)
)
async def create_completion(
    request: Request,
    services: InjectedServices,
    tenant: InjectedTenant,
    body: Annotated[CompletionRequest, Depends(completion_request)],
) -> Response:
    """Continue one or several prompts."""
    completion_id = f"cmpl-{uuid.uuid4().hex}"
    record = services.watch.observer.completion(request.scope, completion_id, body)
    completion = await build_completion(completion_id, body, services, tenant, record)
    writer = ChunkWriter(completion_id, int(time.time()), body.model, services.system_fingerprint)
    if body.stream:
        options = body.stream_options or StreamOptions()
        return EventStream(
            completion,
            writer,
            include_usage=options.include_usage,
            continuous_usage=options.continuous_usage_stats,
            keep_alive_seconds=services.settings.sse_keep_alive_seconds,
            headers=completion.ticket.headers(),
        )
    pieces = await unless_disconnected(request.receive, fold(completion))
    return Response(
        writer.body(pieces, completion.usage.json()),
        headers=completion.ticket.headers(),
        media_type="application/json",
    )
