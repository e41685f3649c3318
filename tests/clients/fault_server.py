"""A server on a real socket that answers with exactly the bytes a test gives it, faults included.

Speaks as much HTTP/1.1 as is needed to read a request. An answer is a list of pieces, each written
by itself; after the last one the connection is closed unless the answer says `KEEP_OPEN`. A number
among them is a pause in seconds.
"""

from __future__ import annotations

import json
import select
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Instead of a piece: go on with the next request on this connection / stay silent to the end.
KEEP_OPEN = "keep open"
SILENCE = "silence"

Answer = list[bytes | str | float]


@dataclass(frozen=True)
class SeenRequest:
    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> dict[str, object]:
        return dict(json.loads(self.content))


class FaultServer(socketserver.ThreadingTCPServer):
    """`answers` are given out in order, the last one again and again; `requests` is what came.

    An `answer` goes before them: what it makes of a request. `max_at_once` is how many requests
    were being answered at the same time, and `num_silent` how many are left without an answer.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.answers: list[Answer] = []
        self.requests: list[SeenRequest] = []
        self.num_connections = 0
        self.answer: Callable[[SeenRequest], Answer] | None = None
        self.num_silent = 0
        self.num_left = 0
        self.max_at_once = 0
        self._num_busy = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_answer(self, request: SeenRequest) -> Answer:
        if self.answer is not None:
            return self.answer(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self.lock:
            self._num_busy += 1
            self.max_at_once = max(self.max_at_once, self._num_busy)
        yield
        with self.lock:
            self._num_busy -= 1

    def wait_until_silent(self, count: int) -> None:
        """Until so many requests are left without an answer."""
        self._wait(lambda: self.num_silent >= count)

    def wait_until_left(self, count: int) -> None:
        """Until so many of those who made them have closed their connections."""
        self._wait(lambda: self.num_left >= count)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"{self.num_silent} silent, {self.num_left} left"
            time.sleep(0.01)


class Connection(socketserver.StreamRequestHandler):
    server: FaultServer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.server.num_connections += 1
        while (request := self.read_request()) is not None:
            self.server.requests.append(request)
            with self.server.busy():
                goes_on = self.write(self.server.next_answer(request))
            if not goes_on:
                return

    def read_request(self) -> SeenRequest | None:
        method, _, rest = self.rfile.readline().decode().partition(" ")
        if not rest:
            return None
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        content = self.rfile.read(int(headers.get("content-length", 0)))
        return SeenRequest(method, rest.split(" ")[0], headers, content)

    def write(self, answer: Answer) -> bool:
        """Write the pieces; whether the connection goes on after them."""
        for piece in answer:
            if piece == KEEP_OPEN:
                return True
            if piece == SILENCE:
                with self.server.lock:
                    self.server.num_silent += 1
                while not self.server.over.is_set():
                    if select.select([self.connection], [], [], 0.01)[0]:
                        with self.server.lock:
                            self.server.num_left += 1  # nothing but its end can come
                        return False
            elif isinstance(piece, float):
                self.server.over.wait(piece)
            elif isinstance(piece, bytes):
                try:
                    self.wfile.write(piece)
                except OSError:  # the client has left, as some tests want
                    return False
        return False


@contextmanager
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def head(status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Words", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def json_answer(body: object, status: int = 200, **headers: str) -> Answer:
    """A whole answer with a length, after which the connection stays open."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [head(status, content_length=str(len(content)), **headers), content, KEEP_OPEN]


def chunk(text: str, finish_reason: str | None = None) -> dict[str, object]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}],
    }


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM_HEAD = head(kind="text/event-stream; charset=utf-8", transfer_encoding="chunked")


def framed(piece: bytes) -> bytes:
    """One chunk of a chunked body; of an empty piece, the body's end."""
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def stream_answer(*pieces: bytes) -> Answer:
    """A well-formed streamed answer, after which the connection stays open."""
    return [STREAM_HEAD, *(framed(piece) for piece in pieces), framed(b""), KEEP_OPEN]
