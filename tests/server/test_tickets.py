"""The queue's and the limits' sums, ticket by ticket: what is taken is given back, and once."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine

from server.request_queue import RequestQueue
from server.settings import Settings
from server.tenants import Tenant
from server.wire.errors import ApiError, overloaded

A, B = Tenant("a"), Tenant("b")


def queue_of(**settings: int) -> RequestQueue:
    return RequestQueue(FakeEngine(), Settings(request_timeout=0, **settings))


def test_what_waits_is_counted_to_the_token() -> None:
    queue = queue_of()

    def counts() -> tuple[int, int, int]:
        return queue.num_open, queue.num_waiting, queue.num_waiting_tokens

    tickets = [queue.enter(tenant, 10) for tenant in (A, A, A, B)]
    assert counts() == (4, 4, 40)
    tickets[0].settle(30)
    tickets[1].settle(3)
    assert counts() == (4, 4, 53)
    for _ in range(2):
        tickets[0].start()
    assert counts() == (4, 3, 23)
    tickets[1].refuse(overloaded())
    with pytest.raises(ApiError):
        tickets[1].settle(99)
    assert counts() == (4, 2, 20)
    for ticket in tickets * 2:
        ticket.close()
    assert counts() == (0, 0, 0)
    assert not queue._waiting, "of tenants without requests nothing is kept"


def test_what_was_used_is_counted_to_the_token() -> None:
    """By a limit that grows by one a second."""
    ticket = queue_of(tokens_per_minute=60).enter(A, 10)

    def left() -> int:
        return int(ticket.headers()["x-ratelimit-remaining-tokens"])

    ticket.settle(50)
    assert 10 <= left() < 25
    ticket.start()
    for _ in range(2):
        ticket.close(30)
        assert 30 <= left() < 45


def test_what_was_never_started_used_nothing() -> None:
    """Its prompt was counted, and nothing computed of it."""
    ticket = queue_of(tokens_per_minute=60).enter(A, 10)
    ticket.settle(50)
    ticket.close(40)
    assert ticket.headers()["x-ratelimit-remaining-tokens"] == "60"
