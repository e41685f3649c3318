"""Which release of the server this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_NOT_INSTALLED = "0+unknown"


def server_version() -> str:
    """The version of the distribution `octavo-server`; run from bare sources it has none."""
    try:
        return version("octavo-server")
    except PackageNotFoundError:
        return _NOT_INSTALLED
