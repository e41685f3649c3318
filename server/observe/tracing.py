"""OpenTelemetry: one span for each completion, under the names of the GenAI conventions.

Off unless the standard environment names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`, or the one for
traces); then the packages of the extra `otel` are needed. Spans are made when a request has ended
and sent by a thread of the SDK: a collector that is slow or gone costs dropped spans and no time.
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import importlib
import logging
import time
from threading import Thread
from typing import Any

from server.observe.record import CompletionRecord, RequestRecord
from server.version import server_version

logger = logging.getLogger(__name__)

MISSING = (
    "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the packages that send traces are not installed; "
    "there will be none: pip install 'octavo-server[otel]'"
)
LAST_SPANS_SECONDS = 2.0  # at the end, for what was not sent yet

_NAMES = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}


class Tracing:
    """Made by `open_tracing`. `close` sends what is left."""

    def __init__(self, provider: Any) -> None:
        """`provider`: the SDK's TracerProvider."""
        trace = importlib.import_module("opentelemetry.trace")
        propagation = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
        self._provider = provider
        self._tracer = provider.get_tracer("octavo", server_version())
        self._parents = propagation.TraceContextTextMapPropagator()
        self._server = trace.SpanKind.SERVER
        self._error = trace.Status(trace.StatusCode.ERROR)

    def ended(self, record: RequestRecord) -> None:
        if not record.is_completion:
            return
        # The wall clock belongs to the end; everything else lies before it by the steady one.
        end = time.time_ns() - round((time.monotonic() - record.ended_at) * 1e9)
        carrier = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        completion = record.completion
        span = self._tracer.start_span(
            f"text_completion {completion.model}" if completion else "text_completion",
            context=self._parents.extract({k: v for k, v in carrier.items() if v is not None}),
            kind=self._server,
            attributes=_attributes(record),
            start_time=end - round(record.seconds * 1e9),
        )
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        if completion is not None:
            for name, moment in (
                ("octavo.first_step", completion.started_at),
                ("octavo.first_token", completion.first_token_at),
            ):
                if moment is not None:
                    span.add_event(name, timestamp=end - round((record.ended_at - moment) * 1e9))
        if record.error_type is not None or record.status != 200:
            span.set_status(self._error)
        span.end(end_time=end)

    def close(self) -> None:
        """Send what was not sent yet, if the collector takes it soon."""
        closing = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(LAST_SPANS_SECONDS)


def open_tracing(is_wanted: bool) -> Tracing | None:
    """Traces, if they are wanted and the packages are there; a warning if they are not."""
    if not is_wanted:
        return None
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resources = importlib.import_module("opentelemetry.sdk.resources")
    except ImportError:
        logger.warning(MISSING)
        return None
    resource = resources.Resource.create()  # what the environment says
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(resources.Resource({"service.name": "octavo"}))
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return Tracing(provider)


def _attributes(record: RequestRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "octavo",
        "gen_ai.output.type": "text",
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status or None,
        "error.type": _error_type(record),
        "octavo.request_id": record.request_id,
        "octavo.queue_time": record.queue_seconds,
    }
    if record.completion is not None:
        attributes |= _completion_attributes(record, record.completion)
    return {name: value for name, value in attributes.items() if value not in (None, [])}


def _completion_attributes(record: RequestRecord, completion: CompletionRecord) -> dict[str, Any]:
    attributes = {_NAMES[name]: value for name, value in completion.parameters.items()}
    choice_count = completion.num_prompts * completion.n
    return attributes | {
        "gen_ai.request.model": completion.model,
        "gen_ai.request.choice.count": choice_count if choice_count != 1 else None,
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.id": completion.completion_id,
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": completion.finish_reasons,
        "gen_ai.response.time_to_first_chunk": record.first_token_seconds,
        "gen_ai.usage.input_tokens": completion.num_prompt_tokens,
        "gen_ai.usage.output_tokens": completion.num_generated_tokens,
        "gen_ai.usage.cache_read.input_tokens": completion.num_cached_tokens,
    }


def _error_type(record: RequestRecord) -> str | None:
    """Low in number, as the conventions ask: a code of ours, or the status."""
    if record.error_type is not None:
        return record.error_code or record.error_type
    return None if record.status == 200 else str(record.status)
