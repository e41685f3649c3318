"""Those who are told of each request, and the one place that tells them.

Whatever goes wrong while a request is reported, the request has its answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from server.observe.load import LoadWatch
from server.observe.metrics import RequestMetrics
from server.observe.record import CompletionRecord, RequestRecord, attach_record, record_of
from server.tenants import client_address
from server.wire.limits import MAX_MODEL_NAME
from server.wire.schemas import CompletionRequest

logger = logging.getLogger(__name__)

_PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
)


class Subscriber(Protocol):
    """Told of each request once, at its end."""

    def ended(self, record: RequestRecord) -> None: ...


class Observer:
    """`subscribers` are told in order, after `metrics`; `load` when something begins."""

    def __init__(
        self,
        metrics: RequestMetrics,
        load: LoadWatch,
        subscribers: Sequence[Subscriber],
        *,
        keeps_prompts: bool,
    ) -> None:
        """`keeps_prompts`: records have the prompts in them, for the log."""
        self._metrics = metrics
        self._load = load
        self._subscribers = (metrics, *subscribers)
        self._keeps_prompts = keeps_prompts

    @contextmanager
    def request(self, scope: Scope, request_id: str) -> Iterator[RequestRecord]:
        """Around all that is done for a request; `scope` leads to the record meanwhile."""
        headers = Headers(scope=scope)
        address = client_address(scope)
        record = RequestRecord(
            request_id,
            scope["method"],
            None if address is None else str(address),
            headers.get("traceparent"),
            headers.get("tracestate"),
        )
        attach_record(scope, record)
        self._metrics.begun()
        self._load.begun()
        try:
            yield record
        finally:
            record.ended_at = time.monotonic()
            record.route = getattr(scope.get("route"), "path", None)
            for subscriber in self._subscribers:
                try:
                    subscriber.ended(record)
                except Exception:
                    logger.exception("%s could not be reported", request_id)

    def completion(
        self, scope: Scope, completion_id: str, body: CompletionRequest
    ) -> CompletionRecord:
        """The record of a completion that is going to be tried, part of the request's."""
        completion = CompletionRecord(
            completion_id,
            body.model[:MAX_MODEL_NAME],
            num_prompts=len(body.prompt),
            n=body.num_generated,
            parameters={name: getattr(body, name) for name in _PARAMETERS},
            prompts=body.prompt if self._keeps_prompts else None,
            gaps=self._metrics.inter_token_latency_seconds,
        )
        record = record_of(scope)
        if record is not None:
            record.completion = completion
            record.stream = body.stream
        return completion
