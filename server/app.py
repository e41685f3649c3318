"""The application: routes, error handlers and services put together. A factory, nothing global."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from engine import Engine, EngineDeadError, SlowReaderError
from server.access import PUBLIC_PATHS, KeyGuard
from server.api_keys import ApiKeys
from server.bodies import Bodies
from server.boundary import RequestBoundary
from server.model_facts import ModelFacts
from server.observe.watch import Watch
from server.request_queue import RequestQueue
from server.routes import router
from server.routes.described import ERRORS
from server.services import Services
from server.settings import Settings
from server.tokenizer import Tokenizer
from server.version import server_version
from server.wire.chat import ApplyTemplateRequest
from server.wire.engines import EngineCompletionRequest
from server.wire.errors import ApiError, answer_error
from server.wire.limits import MAX_BODY_BYTES, MAX_LARGE_BODIES
from server.wire.schemas import CompletionRequest
from server.wire.tokenization import DetokenizeRequest, TokenizeRequest


def create_app(
    engine: Engine,
    tokenizer: Tokenizer,
    settings: Settings,
    model_names: Sequence[str],
    *,
    api_keys: ApiKeys,
    facts: ModelFacts | None = None,
    new_watch: Callable[[Engine, Settings, str], Watch] = Watch,
) -> FastAPI:
    """The API over a started engine. `model_names`: the model's own name first, then aliases.

    `facts` are told by `/v1/models`. `new_watch` makes what watches it;
    `benchmarks/observability.py` has one that sees nothing.
    """
    app = _Application(
        needs_key=bool(api_keys),
        allows_unknown=settings.allow_unknown_params,
        title="Octavo",
        summary="An HTTP inference server for language models",
        version=server_version(),
        responses=ERRORS,  # what is refused before it comes to a route may be any request
        docs_url=None,  # FastAPI's pages run scripts from elsewhere; see routes/docs.py
        redoc_url=None,
        redirect_slashes=False,
    )
    queue = RequestQueue(engine, settings)
    watch = new_watch(engine, settings, model_names[0])
    app.state.services = Services(
        engine, tokenizer, settings, model_names, queue, watch, facts=facts
    )
    app.include_router(router)
    if api_keys:
        app.add_middleware(KeyGuard, keys=api_keys)
    # The last one added is the outermost.
    max_bodies = min(settings.max_connections, MAX_LARGE_BODIES) * MAX_BODY_BYTES
    bodies = Bodies(settings.max_body_memory or max_bodies)
    app.add_middleware(RequestBoundary, observer=watch.observer, bodies=bodies)
    for error in (ApiError, EngineDeadError, SlowReaderError, HTTPException):
        app.add_exception_handler(error, answer_error)
    return app


_BODIES = (
    CompletionRequest,
    EngineCompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ApplyTemplateRequest,
)


class _Application(FastAPI):
    """Adds to /openapi.json what FastAPI does not see: request bodies, and the need of a key."""

    def __init__(self, *, needs_key: bool, allows_unknown: bool, **options: Any) -> None:
        super().__init__(**options)
        self._needs_key = needs_key
        self._allows_unknown = allows_unknown

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            description = super().openapi()
            schemas = description["components"]["schemas"]
            for model in _BODIES:
                body = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(body.pop("$defs", {}))
                # They let unknown ones in, to be told of all at once.
                body["additionalProperties"] = self._allows_unknown
                schemas[model.__name__] = body
            if self._needs_key:
                _describe_key(description)
        return super().openapi()


def _describe_key(description: dict[str, Any]) -> None:
    scheme = {"type": "http", "scheme": "bearer"}
    description["components"]["securitySchemes"] = {"ApiKey": scheme}
    description["security"] = [{"ApiKey": []}]
    for path in PUBLIC_PATHS & description["paths"].keys():
        for operation in description["paths"][path].values():
            operation["security"] = []
