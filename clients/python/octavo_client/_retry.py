"""When a failed request is sent again, and after how long. Does no input or output.

The rules are those of the `openai` library: connections that failed, 408, 409, 429 and 5xx; half a
second doubled up to eight, less up to a quarter by chance; the server's own word goes first. Its
wait is kept to if all waits of a call stay below two minutes, else the error is raised at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import httpx

from octavo_client._errors import APIError

FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
MAX_TOTAL_WAIT = 120.0
JITTER = 0.25

# Nothing of an answer has come. Not the timeouts that follow: the caller's patience is over, and
# the server would compute the same again. A request that cannot be sent stays one.
_TRANSIENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)


class Attempts:
    """The attempts of one call: how many were made, and how long is waited in all."""

    def __init__(self, max_retries: int, draw: Callable[[], float] = random.random) -> None:
        self.num_made = 1
        self._num_left = max_retries
        self._waited = 0.0
        self._draw = draw

    def next_wait(self, error: APIError, cause: httpx.RequestError | None = None) -> float:
        """Seconds until the next attempt; raises `error`, told their number, if there is none.

        `cause` is what httpx raised where there was no answer.
        """
        error.attempts = self.num_made
        if not self._num_left or not _may_pass(error, cause):
            raise error from cause
        backoff = min(FIRST_WAIT * 2 ** min(self.num_made - 1, 10), LONGEST_WAIT)
        wait = error.retry_after or backoff * (1 - JITTER * self._draw())
        if self._waited + wait > MAX_TOTAL_WAIT:
            raise error from cause
        self._waited += wait
        self._num_left -= 1
        self.num_made += 1
        return wait


def _may_pass(error: APIError, cause: httpx.RequestError | None) -> bool:
    """Whether the same request may fare better later."""
    if error.response is None:
        return isinstance(cause, _TRANSIENT)
    advice = error.response.headers.get("x-should-retry")
    if advice in ("true", "false"):
        return bool(advice == "true")
    status = error.response.status_code
    return status in (408, 409, 429) or status >= 500
