"""Conversations: for clients that chat through completions."""

from fastapi import APIRouter, Request

from server.completion.admission import check_model
from server.disconnect import unless_disconnected
from server.routes.described import ERRORS, json_body
from server.services import InjectedServices, InjectedTenant
from server.wire.body import parse_json, read_json_body
from server.wire.chat import ApplyTemplateRequest, ApplyTemplateResponse

router = APIRouter()


@router.post("/apply-template", responses=ERRORS, openapi_extra=json_body(ApplyTemplateRequest))
async def apply_template(
    request: Request, services: InjectedServices, tenant: InjectedTenant
) -> ApplyTemplateResponse:
    """A conversation as a prompt, by the model's own chat template."""
    body = parse_json(ApplyTemplateRequest, await read_json_body(request))
    body.check(allow_unknown_params=services.settings.allow_unknown_params)
    if body.model is not None:
        check_model(body.model, services)
    rendering = services.chat_templates.apply(body, services.tokenizer, tenant)
    return await unless_disconnected(request.receive, rendering)
