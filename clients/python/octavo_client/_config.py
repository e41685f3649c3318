"""Where the server is and how to talk to it: arguments first, then the environment, then defaults.

The only place of the client that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import httpx
from typing_extensions import TypedDict

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
# A long prompt on a slow machine is silent for minutes; a server that is there accepts at once.
DEFAULT_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
DEFAULT_MAX_RETRIES = 2
LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)

Timeout = float | httpx.Timeout | None
QueryValue = str | int | float | bool | None
Query = Mapping[str, QueryValue | Sequence[QueryValue]]


class ClientOptions(TypedDict, total=False):
    """What `with_options` changes; each means what it means when a client is made."""

    base_url: str | None
    api_key: str | None
    timeout: Timeout
    max_retries: int
    default_headers: Mapping[str, str] | None
    default_query: Query | None


@dataclass(frozen=True)
class ClientConfig:
    """`base_url` ends in the API's version; `root_url` is the server's own and ends without it."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: httpx.Timeout
    max_retries: int
    default_headers: Mapping[str, str] = field(repr=False)
    default_query: Query

    @staticmethod
    def resolve(
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        default_query: Query | None = None,
    ) -> ClientConfig:
        """A URL of a host alone gets `/v1`. `ValueError` for what cannot be asked or sent."""
        if max_retries < 0:
            raise ValueError(f"max_retries has to be 0 or more, not {max_retries}")
        key = (api_key or _environment("API_KEY") or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                "the API key has characters that cannot be sent: it has to be printable ASCII"
            )
        return ClientConfig(
            base_url=_usable(base_url or _environment("BASE_URL") or DEFAULT_BASE_URL),
            api_key=key or None,
            timeout=timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout),
            max_retries=max_retries,
            default_headers=dict(default_headers or {}),
            default_query=dict(default_query or {}),
        )

    def replaced(self, options: ClientOptions) -> ClientConfig:
        """This one with `options` instead of its own; headers and query are added to its own."""
        unknown = set(options) - set(ClientOptions.__annotations__)
        if unknown:
            raise TypeError(f"a client has no option {sorted(unknown)[0]!r}")
        return ClientConfig.resolve(
            options.get("base_url") or self.base_url,
            options.get("api_key") or self.api_key,
            options.get("timeout", self.timeout),
            options.get("max_retries", self.max_retries),
            {**self.default_headers, **(options.get("default_headers") or {})},
            {**self.default_query, **(options.get("default_query") or {})},
        )

    @property
    def root_url(self) -> str:
        return self.base_url.removesuffix("/v1")

    @property
    def headers(self) -> dict[str, str]:
        """What goes out with every request."""
        headers = {"User-Agent": f"octavo-client/{_version()}"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {**headers, **self.default_headers}


def _environment(name: str) -> str | None:
    """Octavo's variable of this name or else OpenAI's, as programs have it set already."""
    return os.environ.get(f"OCTAVO_{name}") or os.environ.get(f"OPENAI_{name}")


def _usable(base_url: str) -> str:
    url = base_url.strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"base_url has to start with http:// or https://, not {url!r}")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url {url!r} is not a URL: {error}") from error
    if not parsed.host:
        raise ValueError(f"base_url {url!r} names no host")
    if parsed.query or parsed.fragment:
        raise ValueError(f"base_url {url!r} has more than a path; default_query is for a query")
    return url if "/" in url.partition("://")[2] else f"{url}/v1"


def _version() -> str:
    try:
        return version("octavo-client")
    except PackageNotFoundError:  # run from its folder without being installed
        return "unknown"
