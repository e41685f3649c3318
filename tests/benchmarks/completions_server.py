"""A server of the completions API for tests of the comparison: a process that counts, and may lie.

    python completions_server.py PORT [--short | --die | --orphan FILE]

An answer has a token every millisecond. `--short` leaves one out, `--die` ends at the first long
prompt, `--orphan` starts a child in a session of its own and writes its id to FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        num_in, num_out = len(body["prompt"]), body["max_tokens"]
        if "--die" in sys.argv and num_in > 128:
            os._exit(3)
        num_out -= "--short" in sys.argv and num_out > 1
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(num_out):
            time.sleep(0.001)
            self._event({"choices": [{"text": "a"}]})
        self._event(
            {"choices": [], "usage": {"prompt_tokens": num_in, "completion_tokens": num_out}}
        )
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, data: object) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    if "--orphan" in sys.argv:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(command, start_new_session=True)
        Path(sys.argv[-1]).write_text(str(child.pid))
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
