"""What the operator and Prometheus ask."""

from fastapi import APIRouter, Response

from server.observe.text_format import CONTENT_TYPE
from server.services import InjectedServices
from server.wire.stats import ServerStats

router = APIRouter()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(services: InjectedServices) -> Response:
    """All counts, in the text format of Prometheus."""
    return Response(await services.watch.page.text(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/stats")
async def stats(services: InjectedServices) -> ServerStats:
    """The server at a glance."""
    return await services.watch.stats()
