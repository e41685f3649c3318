"""A collector of traces: OTLP over HTTP on a real socket, parsed with OpenTelemetry's own types."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """What has come so far. `resource` are the attributes of the last sender."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self.paths: set[str] = set()
        self._changed = threading.Condition()

    def take(self, path: str, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.paths.add(path)
            for part in request.resource_spans:
                self.resource = attributes(part.resource)
                for scope in part.scope_spans:
                    self.spans += scope.spans
            self._changed.notify_all()

    def wait(self, num_spans: int) -> list[Span]:
        """All spans, when so many have come. Gives up after half a minute."""
        end = time.monotonic() + 30
        with self._changed:
            while len(self.spans) < num_spans and time.monotonic() < end:
                self._changed.wait(end - time.monotonic())
            return list(self.spans)


def attributes(owner: Any) -> dict[str, Any]:
    """Of a span, an event or a resource, as plain values."""
    return {item.key: _plain(item.value) for item in owner.attributes}


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    return getattr(value, str(kind))


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver that listens until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
