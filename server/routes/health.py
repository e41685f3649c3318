"""What the server can do at this moment, for those who decide whether to send to it or restart it.

Each question may be asked with HEAD too. The routes with both methods come first, so that `Allow`
has both, and are not described, because they would be twice, under one operation id.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter

from server.services import InjectedServices
from server.wire.errors import model_loading, shutting_down
from server.wire.schemas import ErrorResponse, Health

router = APIRouter()

_Question = Callable[..., Coroutine[Any, Any, Health]]


async def health(services: InjectedServices) -> Health:
    """Whether requests can be answered at this moment."""
    if services.queue.is_draining:
        raise shutting_down()
    if not services.engine.is_ready:
        raise model_loading()
    return Health()


async def ready(services: InjectedServices) -> Health:
    """Whether requests should be sent here."""
    return await health(services)


async def live() -> Health:
    """Whether the server process lives, whatever it can do; the engine it restarts by itself."""
    return Health()


def _add(path: str, question: _Question, **options: Any) -> None:
    router.add_api_route(path, question, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route(path, question, methods=["GET"], **options)


_UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": ErrorResponse}}

_add("/health", health, responses=_UNAVAILABLE)
_add("/readyz", ready, responses=_UNAVAILABLE)
_add("/livez", live)

# Other servers' name for it.
router.add_api_route("/ping", health, methods=["GET", "HEAD", "POST"], include_in_schema=False)
