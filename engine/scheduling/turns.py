"""Whose turn it is among tenants of one priority: start-time fair queueing.

Each request gets a number when it comes, and lower ones go first: where the tenant's own last
request ended, in tokens asked for, but never before the requests that start now. So a tenant with
many requests queues behind itself, not in front of others; and a newcomer never goes before
somebody who has run already, which would only be preempted for it.

P. Goyal, H. Vin, H. Cheng: Start-time fair queueing, 1997. Standard library only.
"""

from __future__ import annotations

from engine.request import Request

_MIN_FORGET = 1024  # tenants of one priority before those are looked for who are owed nothing


class Turns:
    """The numbers of all unfinished requests; forgets a priority with its last request."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}

    def enter(self, request: Request) -> int:
        """The turn of a new request."""
        level = self._levels.setdefault(request.priority, _Level())
        level.num_requests += 1
        level.waiting.add(request.request_id)
        turn = max(level.now, level.ends.get(request.tenant, 0))
        level.set_end(request.tenant, turn + _num_tokens(request))
        return turn

    def start(self, request: Request, turn: int) -> None:
        """A request with this turn starts to run, for the first time or again."""
        level = self._levels[request.priority]
        level.now = max(level.now, turn)
        level.waiting.discard(request.request_id)

    def leave(self, request: Request) -> None:
        """A request is over, in whatever way. One that never ran costs its tenant nothing."""
        level = self._levels[request.priority]
        level.num_requests -= 1
        if request.request_id in level.waiting:
            level.waiting.remove(request.request_id)
            if request.tenant in level.ends:
                level.ends[request.tenant] -= _num_tokens(request)
        if level.num_requests == 0:
            del self._levels[request.priority]


class _Level:
    """The requests of one priority: the latest turn that has started, those that never ran, and
    where tenants end."""

    def __init__(self) -> None:
        self.now = 0
        self.num_requests = 0
        self.waiting: set[str] = set()
        self.ends: dict[str, int] = {}
        self._forget_at = _MIN_FORGET

    def set_end(self, tenant: str, end: int) -> None:
        self.ends[tenant] = end
        if len(self.ends) >= self._forget_at:
            self.ends = {tenant: end for tenant, end in self.ends.items() if end > self.now}
            self._forget_at = max(_MIN_FORGET, 2 * len(self.ends))


def _num_tokens(request: Request) -> int:
    """What a request may cost: its prompt is computed once, whatever `n` is."""
    return len(request.prompt_token_ids) + request.n * max(request.sampling.max_tokens, 1)
