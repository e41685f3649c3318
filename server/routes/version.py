"""Which server this is."""

from fastapi import APIRouter

from server.version import server_version
from server.wire.version import Version

router = APIRouter()


@router.get("/version")
async def version() -> Version:
    """The release of the server."""
    return Version(version=server_version())
