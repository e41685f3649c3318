"""Text to token ids and back, for clients that have no tokenizer of their own."""

from dataclasses import asdict
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from server.completion.admission import check_model
from server.routes.described import ERRORS, json_body
from server.services import InjectedServices, InjectedTenant, Services
from server.tokenization import detokenize, tokenize
from server.wire.body import parse_json, read_json_body
from server.wire.tokenization import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)

Body = TypeVar("Body", TokenizeRequest, DetokenizeRequest)

_both = APIRouter()


@_both.post(
    "/tokenize",
    responses={200: {"model": TokenizeResponse}, **ERRORS},
    openapi_extra=json_body(TokenizeRequest),
)
async def create_tokens(
    request: Request, services: InjectedServices, tenant: InjectedTenant
) -> Response:
    """The token ids of a text."""
    body = await _read(TokenizeRequest, request, services)
    max_model_len = services.engine.info.max_model_len
    content = await tokenize(body, services.tokenizer, max_model_len, services.workers, tenant)
    return _json(content)


@_both.post(
    "/detokenize",
    responses={200: {"model": DetokenizeResponse}, **ERRORS},
    openapi_extra=json_body(DetokenizeRequest),
)
async def create_text(
    request: Request, services: InjectedServices, tenant: InjectedTenant
) -> Response:
    """The text of token ids, special tokens by their names."""
    body = await _read(DetokenizeRequest, request, services)
    vocab_size = services.engine.info.vocab_size
    content = await detokenize(body, services.tokenizer, vocab_size, services.workers, tenant)
    return _json(content)


router = APIRouter()
router.include_router(_both)
router.include_router(_both, prefix="/v1")


@router.get("/tokenizer_info")
async def tokenizer_info(services: InjectedServices) -> TokenizerInfo:
    """The names of special tokens and the chat template."""
    description = asdict(services.tokenizer.description)
    return TokenizerInfo(**description, model_max_length=services.engine.info.max_model_len)


async def _read(model: type[Body], request: Request, services: Services) -> Body:
    """The checked body. Raises ApiError."""
    body = parse_json(model, await read_json_body(request))
    body.check(allow_unknown_params=services.settings.allow_unknown_params)
    if body.model is not None:
        check_model(body.model, services)
    return body


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
