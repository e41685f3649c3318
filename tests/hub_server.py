"""A Hugging Face hub on a port of this machine: as much of it as `huggingface_hub` asks for.

Knows one repository with files in memory, and a list of faults to commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The repository `repo_id` and how the server behaves. `requests` has "METHOD path" of each.

    `refuse` answers every request for the repository, `refuse_files` those for its files, with a
    status and the hub's error code. Files named in `cut` break off halfway, once; with
    `down_after_cut` the server is down from then on.
    """

    repo_id: str
    files: dict[str, bytes]
    refuse: tuple[int, str] | None = None
    refuse_files: tuple[int, str] | None = None
    cut: set[str] = field(default_factory=set)
    down_after_cut: bool = False
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def downloads(self) -> list[str]:
        """The names of the files whose content was asked for, in alphabetic order."""
        prefix = f"GET /{self.repo_id}/resolve/{COMMIT}/"
        return sorted(r.removeprefix(prefix) for r in self.requests if r.startswith(prefix))


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at `hub.endpoint` for the block."""

    class Handler(HubHandler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        repo_id = self.hub.repo_id
        if repo_id not in path:
            self.answer(404, error="RepoNotFound")
        elif self.hub.refuse:
            self.answer(self.hub.refuse[0], error=self.hub.refuse[1])
        elif path in (f"/api/models/{repo_id}", f"/api/models/{repo_id}/revision/main"):
            siblings = [{"rfilename": n, "size": len(d)} for n, d in self.hub.files.items()]
            self.answer_json({"id": repo_id, "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/models/{repo_id}/tree/{COMMIT}":
            self.answer_json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                    for name, data in self.hub.files.items()
                ]
            )
        elif match := re.fullmatch(rf"/{repo_id}/resolve/{COMMIT}/(.+)", path):
            self.answer_file(unquote(match[1]))
        else:
            self.answer(404, error="EntryNotFound")

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer_file(self, name: str) -> None:
        if self.hub.refuse_files:
            self.answer(self.hub.refuse_files[0], error=self.hub.refuse_files[1])
            return
        data = self.hub.files[name]
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        self.answer(status, data, headers, cut=self.command == "GET" and name in self.hub.cut)
        if self.close_connection:
            self.hub.cut.discard(name)
            if self.hub.down_after_cut:
                self.hub.refuse_files = (503, "")

    def answer(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        error: str = "",
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut:
            body = body[: len(body) // 2]
            self.close_connection = True
        if self.command == "GET":
            self.wfile.write(body)


def etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
