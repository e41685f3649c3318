"""Models under the URLs of OpenAI's first API, which `openai` 0.28 calls for `engine=`."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from server.completion.admission import check_model
from server.routes.completions import COMPLETION_ANSWERS, create_completion, read_completion
from server.routes.described import ERRORS, json_body
from server.services import InjectedServices, InjectedTenant, Services
from server.wire.engines import EngineCard, EngineCompletionRequest, EngineList

router = APIRouter()


async def engine_completion_request(
    engine: str, request: Request, services: InjectedServices
) -> EngineCompletionRequest:
    """The checked body, with the model that the URL names. Raises ApiError."""
    body = await read_completion(EngineCompletionRequest, request, services)
    return body.model_copy(update={"model": engine})


@router.post(
    "/v1/engines/{engine:path}/completions",
    responses=COMPLETION_ANSWERS,
    openapi_extra=json_body(EngineCompletionRequest),
)
async def create_engine_completion(
    request: Request,
    services: InjectedServices,
    tenant: InjectedTenant,
    body: Annotated[EngineCompletionRequest, Depends(engine_completion_request)],
) -> Response:
    """Continue one or several prompts with the model in the URL."""
    return await create_completion(request, services, tenant, body)


@router.get("/v1/engines/{engine:path}/completions", include_in_schema=False)
async def refuse_to_get_completions(engine: str) -> None:
    """Without this, a GET would be taken for a question about an engine "x/completions"."""
    raise HTTPException(405, headers={"Allow": "POST"})


@router.get("/v1/engines", responses=ERRORS)
async def list_engines(services: InjectedServices) -> EngineList:
    """The models this server has."""
    return EngineList(data=[_card(name, services) for name in services.model_names])


@router.get("/v1/engines/{engine:path}", responses=ERRORS)
async def get_engine(engine: str, services: InjectedServices) -> EngineCard:
    """One model."""
    check_model(engine, services)
    return _card(engine, services)


def _card(name: str, services: Services) -> EngineCard:
    return EngineCard(id=name, created=services.created, ready=services.engine.is_ready)
