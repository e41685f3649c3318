"""Who may wait for the engine: a bounded queue, shared fairly, with an end to every wait.

The requests themselves wait in the engine, whose scheduler decides the order; this counts those
that have no token yet, lets in, and tells some to give up. Refusals come before any work is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine import Engine
from server.rate_limits import Allowance, RateLimits
from server.settings import Settings
from server.tenants import Tenant
from server.wire.errors import ApiError, overloaded, shutting_down, timed_out

_CACHE_FULLS = 8  # tokens that may wait by default, in fillings of the KV cache


class RequestQueue:
    """All requests from their admission to their end.

    When it is full, a tenant with less in it may push out the newest of the tenant with most. One
    request is always let into an empty queue, however large.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._limits = RateLimits(settings.requests_per_minute, settings.tokens_per_minute)
        self._open: set[Ticket] = set()
        self._waiting: dict[str, dict[Ticket, None]] = {}  # by tenant, in the order they came
        self.num_waiting = 0
        self.num_waiting_tokens = 0
        self.is_draining = False

    @property
    def num_open(self) -> int:
        """Requests that wait or are being answered."""
        return len(self._open)

    @property
    def max_tokens(self) -> int:
        """Prompt and completion tokens that may wait."""
        info = self._engine.info
        return self._settings.max_queue_tokens or _CACHE_FULLS * info.num_blocks * info.block_size

    def enter(self, tenant: Tenant, num_tokens: int) -> Ticket:
        """Let a request in that takes at least `num_tokens`. Raises ApiError 429 or 503."""
        if self.is_draining:
            raise shutting_down()
        allowance = self._limits.of(tenant)
        allowance.check(num_tokens)
        self._make_room(tenant.name, num_tokens, num_requests=1)
        ticket = Ticket(self, tenant, allowance, num_tokens)
        self._open.add(ticket)
        self._waiting.setdefault(tenant.name, {})[ticket] = None
        self.num_waiting += 1
        self.num_waiting_tokens += num_tokens
        allowance.take(num_tokens, num_requests=1)
        if self._settings.request_timeout:
            ticket.refuse_after(self._settings.request_timeout)
        return ticket

    def start_draining(self) -> None:
        """Let nobody in any more."""
        self.is_draining = True

    def end_all(self) -> None:
        """Have every request that is still open answered with an error."""
        for ticket in list(self._open):
            ticket.refuse(shutting_down())

    # For tickets

    def grow(self, ticket: Ticket, num_tokens: int) -> None:
        """`ticket` takes so many tokens more. Raises ApiError 503."""
        self._make_room(ticket.tenant.name, num_tokens, num_requests=0)
        self.num_waiting_tokens += num_tokens

    def leave(self, ticket: Ticket) -> None:
        """`ticket` waits no more."""
        waiting = self._waiting[ticket.tenant.name]
        del waiting[ticket]
        if not waiting:
            del self._waiting[ticket.tenant.name]
        self.num_waiting -= 1
        self.num_waiting_tokens -= ticket.num_tokens

    def end(self, ticket: Ticket) -> None:
        self._open.discard(ticket)

    def _make_room(self, tenant: str, num_tokens: int, num_requests: int) -> None:
        """Push out what is needed for so much more. Raises ApiError 503, having changed nothing."""
        excess = self.num_waiting + num_requests - self._settings.max_queue_requests
        excess_tokens = self.num_waiting_tokens + num_tokens - self.max_tokens
        if self.num_waiting + num_requests == 1 or (excess <= 0 and excess_tokens <= 0):
            return
        victims: list[Ticket] = []
        left = {
            name: (len(tickets), sum(ticket.num_tokens for ticket in tickets))
            for name, tickets in self._waiting.items()
        }
        num_own, num_own_tokens = left.pop(tenant, (0, 0))
        own = (num_own + num_requests, num_own_tokens + num_tokens)
        newest = {name: reversed(tickets) for name, tickets in self._waiting.items()}
        while excess > 0 or excess_tokens > 0:
            unit = 0 if excess > 0 else 1  # requests, tokens
            largest = max(left, key=lambda name: left[name][unit], default=None)
            if largest is None or left[largest][unit] <= own[unit]:
                raise overloaded()
            victim = next(newest[largest])
            victims.append(victim)
            left[largest] = (left[largest][0] - 1, left[largest][1] - victim.num_tokens)
            excess -= 1
            excess_tokens -= victim.num_tokens
        for victim in victims:
            victim.refuse(overloaded())


class Ticket:
    """One request's place: in the queue until `start`, on the server until `close`.

    `refusal` is set when it has to give up, and `on_refused` called then: whoever works on it has
    to look. `num_tokens`: what the request may use, its prompt included.
    """

    def __init__(
        self, queue: RequestQueue, tenant: Tenant, allowance: Allowance, num_tokens: int
    ) -> None:
        self.tenant = tenant
        self.num_tokens = num_tokens
        self.refusal: ApiError | None = None
        self.on_refused: Callable[[], None] = _nobody_listens
        self._queue = queue
        self._allowance = allowance
        self._is_waiting = True
        self._was_started = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None

    def headers(self) -> dict[str, str]:
        """What the answer has to say of the tenant's limits."""
        return self._allowance.headers()

    def settle(self, num_tokens: int) -> None:
        """The prompt has been counted. Raises ApiError 429 or 503; `close` it all the same."""
        self.check()
        more = num_tokens - self.num_tokens
        if more > 0:
            try:
                self._allowance.check(num_tokens, num_requests=0, num_taken=self.num_tokens)
                self._queue.grow(self, more)
            except ApiError as error:
                self.refusal = error  # turned away, as at the door
                raise
        else:
            self._queue.num_waiting_tokens += more
        self._allowance.take(more)
        self.num_tokens = num_tokens

    def check(self) -> None:
        """Raises the ApiError with which it has to give up."""
        if self.refusal is not None:
            raise self.refusal

    def start(self) -> None:
        """The engine has begun to answer it. May be called again."""
        if self._is_waiting:
            self._was_started = True
            self._leave()

    def close(self, num_used: int = 0) -> None:
        """The request is over and has used so many tokens, if it was started. May be called
        again."""
        if self._is_closed:
            return
        self._is_closed = True
        self._leave()
        self._queue.end(self)
        # A request that was let in and then turned away counts for nothing.
        is_unserved = self.refusal is not None and not self._was_started
        self._allowance.take(
            (num_used if self._was_started else 0) - self.num_tokens, -1 if is_unserved else 0
        )
        if self._timer is not None:
            self._timer.cancel()

    def refuse(self, error: ApiError) -> None:
        """Make it give up; its place is free at once."""
        if self.refusal is None and not self._is_closed:
            self.refusal = error
            self._leave()
            self.on_refused()

    def refuse_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._expire, seconds)

    def _expire(self, seconds: float) -> None:
        self.refuse(timed_out(seconds, was_started=self._was_started))

    def _leave(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._queue.leave(self)


def _nobody_listens() -> None:
    """Before the engine has the request, somebody asks by `check`."""
