"""Requests and tokens a minute for each tenant, as token buckets, and the headers that tell.

A bucket holds a minute's worth and fills up again steadily. Tokens are taken for what a request may
use at most, when it comes; what it did not use is put back when it ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from server.tenants import Tenant
from server.wire.errors import ApiError, retry_headers

_ROUNDING = 1e-6  # of a request or token: who waited as long as told is let in
_MIN_FORGET = 1024  # tenants before those are looked for whose buckets are full


class Bucket:
    """`limit` a minute. May be overdrawn, by a request that turned out larger than was known."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._since = now

    def level(self, now: float) -> float:
        """What may be taken at this moment."""
        return min(self._level + (now - self._since) * self.limit / 60, self.limit)

    def add(self, amount: float, now: float) -> None:
        """Put something in, or take it out if `amount` is negative."""
        self._level = min(self.level(now) + amount, self.limit)
        self._since = now

    def seconds_until(self, level: float, now: float) -> float:
        return max(level - self.level(now), 0) * 60 / self.limit


class Allowance:
    """The buckets of one tenant, None where there is no limit."""

    def __init__(
        self, requests: int | None, tokens: int | None, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        now = clock()
        self._requests = Bucket(requests, now) if requests else None
        self._tokens = Bucket(tokens, now) if tokens else None

    @property
    def is_full(self) -> bool:
        now = self._clock()
        buckets = (self._requests, self._tokens)
        return all(bucket is None or bucket.level(now) >= bucket.limit for bucket in buckets)

    def check(self, num_tokens: int, num_requests: int = 1, num_taken: int = 0) -> None:
        """Raises ApiError 429 when so much would be over a limit; takes nothing. `num_taken` of the
        tokens were taken already."""
        now = self._clock()
        for bucket, amount, num_missing, unit in (
            (self._requests, num_requests, num_requests, "requests"),
            (self._tokens, num_tokens, num_tokens - num_taken, "tokens"),
        ):
            if bucket is not None and bucket.level(now) + _ROUNDING < num_missing:
                raise self._refusal(bucket, amount, num_missing, unit, now)

    def take(self, num_tokens: int, num_requests: int = 0) -> None:
        """Use so much; negative numbers are given back."""
        now = self._clock()
        if self._requests is not None:
            self._requests.add(-num_requests, now)
        if self._tokens is not None:
            self._tokens.add(-num_tokens, now)

    def headers(self) -> dict[str, str]:
        """What is left, as OpenAI's API says it."""
        now = self._clock()
        headers = {}
        for bucket, unit in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket is not None:
                left = max(math.floor(bucket.level(now)), 0)
                reset = duration(bucket.seconds_until(bucket.limit, now))
                headers[f"x-ratelimit-limit-{unit}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(left)
                headers[f"x-ratelimit-reset-{unit}"] = reset
        return headers

    def _refusal(
        self, bucket: Bucket, amount: int, num_missing: int, unit: str, now: float
    ) -> ApiError:
        limit = f"the limit of {bucket.limit} {unit} per minute"
        if amount > bucket.limit:
            message = f"This request may use {amount} {unit}, which is over {limit} by itself."
            headers = {"x-should-retry": "false"}
        else:
            seconds = bucket.seconds_until(num_missing, now)
            message = f"You have reached {limit}. Try again in {duration(seconds)}."
            headers = retry_headers(seconds)
        return ApiError(
            429,
            message,
            type="rate_limit_error",
            code="rate_limit_exceeded",
            headers=headers | self.headers(),
        )


class RateLimits:
    """The allowances of all tenants; of a tenant that used nothing lately, none is kept."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The limits of tenants that have none of their own."""
        self._default = (requests_per_minute, tokens_per_minute)
        self._clock = clock
        self._allowances: dict[str, Allowance] = {}
        self._forget_at = _MIN_FORGET

    def of(self, tenant: Tenant) -> Allowance:
        allowance = self._allowances.get(tenant.name)
        if allowance is None:
            own = (tenant.requests_per_minute, tenant.tokens_per_minute)
            requests, tokens = (
                default if limit is None else limit
                for limit, default in zip(own, self._default, strict=True)
            )
            allowance = Allowance(requests, tokens, self._clock)
            self._forget()
            self._allowances[tenant.name] = allowance
        return allowance

    def _forget(self) -> None:
        if len(self._allowances) >= self._forget_at:
            used = {name: one for name, one in self._allowances.items() if not one.is_full}
            self._allowances = used
            self._forget_at = max(_MIN_FORGET, 2 * len(used))


def duration(seconds: float) -> str:
    """As OpenAI writes it: "20ms", "1.5s", "6m0s". Rounded up: waiting so long is enough."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    text = f"{milliseconds / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text
