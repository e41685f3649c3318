"""Where the server is and how to talk to it: arguments first, then the environment, then defaults.

The only place of the client that reads the environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import httpx

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
# A long prompt on a slow machine is silent for minutes; a server that is there accepts at once.
DEFAULT_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)


@dataclass(frozen=True)
class ClientConfig:
    """`base_url` ends in the API's version; `root_url` is the server's own and ends without it."""

    base_url: str
    root_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout

    @staticmethod
    def resolve(
        base_url: str | None, api_key: str | None, timeout: float | httpx.Timeout | None
    ) -> ClientConfig:
        """A URL of a host alone gets `/v1`. `ValueError` for one without http or https."""
        url = (base_url or os.environ.get("OCTAVO_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"base_url has to start with http:// or https://, not {url!r}")
        if "/" not in url.partition("://")[2]:
            url += "/v1"
        key = api_key or os.environ.get("OCTAVO_API_KEY")
        headers = {"User-Agent": f"octavo-client/{_version()}"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if timeout is None:
            timeout = DEFAULT_TIMEOUT
        elif not isinstance(timeout, httpx.Timeout):
            timeout = httpx.Timeout(timeout)
        return ClientConfig(url, url.removesuffix("/v1"), headers, timeout)


def _version() -> str:
    try:
        return version("octavo-client")
    except PackageNotFoundError:  # run from its folder without being installed
        return "unknown"
