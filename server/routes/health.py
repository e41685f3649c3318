"""Whether the server can answer."""

from fastapi import APIRouter

from server.services import InjectedServices
from server.wire.errors import model_loading
from server.wire.schemas import ErrorResponse, Health

router = APIRouter()


@router.get("/health", responses={503: {"model": ErrorResponse}})
async def health(services: InjectedServices) -> Health:
    """Whether requests can be answered at this moment."""
    if not services.engine.is_ready:
        raise model_loading()
    return Health()


# Other servers' name for it. One route, so that `Allow` has both methods; which FastAPI would
# describe twice under one operation id.
router.add_api_route("/ping", health, methods=["GET", "POST"], include_in_schema=False)
