"""`python -m server` as the operator runs it: the banner, a completion, signals, failed starts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serve_process import ENVIRONMENT, ROOT, command, serving

COMMAND = [sys.executable, "-m", "server"]


def test_serves_until_told_to_stop(builtin_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--dtype", "float32", "--allowed-hosts", "api.example.com")
    with serving(command(builtin_model, *options)) as (process, url):
        output = capsys.readouterr().err
        for host, status in (("api.example.com:1", 200), ("localhost", 200), ("evil.example", 421)):
            response = httpx.get(f"{url}/v1/models", headers={"Host": host})
            assert response.status_code == status, host
        curl = next(line for line in output.splitlines() if line.startswith("  curl "))
        answer = subprocess.run(
            ["sh", "-c", f"exec {curl.strip()} -sS"], capture_output=True, text=True, check=True
        )
        assert '"finish_reason"' in answer.stdout
        assert "float32" in output
        assert re.search(r"^  from      local, .*\.gguf$", output, re.MULTILINE)
        assert f"{url}/docs" in output
        assert re.search(r"[\d,]+ pages of 16 tokens \([\d,]+ tokens\)", output)
        assert "smol" in output
        with httpx.stream(
            "POST",
            f"{url}/v1/completions",
            json={"model": "smol", "prompt": "The sea", "max_tokens": 6, "stream": True},
            timeout=60,
        ) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)  # what runs is finished first
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_seeded_request_outlives_a_restart(builtin_model: Path) -> None:
    """The same text alone, among 15 others, and from a server that was started again."""
    body = {
        "model": "smol",
        "prompt": ["The sea is", "Once upon a time"],
        "n": 2,
        "temperature": 1,
        "top_p": 0.95,
        "seed": 3,
        "max_tokens": 24,
    }
    others = [body | {"prompt": f"Number {i} is", "seed": i, "n": 1} for i in range(15)]

    def texts(client: httpx.Client, request: dict[str, object]) -> list[str]:
        response = client.post("/v1/completions", json=request)
        assert response.status_code == 200, response.text
        return [choice["text"] for choice in response.json()["choices"]]

    told = []
    for _ in range(2):
        with (
            serving(command(builtin_model, "--dtype", "float32")) as (_, url),
            httpx.Client(base_url=url, timeout=120) as client,
            ThreadPoolExecutor(16) as pool,
        ):
            told.append(texts(client, body))
            company = [pool.submit(texts, client, other) for other in others]
            told.append(pool.submit(texts, client, body).result())
            assert all(other.result() for other in company)
    assert len(set(told[0])) == 4
    assert told == [told[0]] * 4


def test_a_second_signal_means_now(builtin_model: Path) -> None:
    with serving(command(builtin_model)) as (process, url):
        body = {
            "model": "smol",
            "prompt": "The sea",
            "max_tokens": 4000,
            "stream": True,
            "ignore_eos": True,
        }
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()  # kept, or else the response would be closed with it
            next(lines)
            process.send_signal(signal.SIGINT)
            while httpx.get(f"{url}/readyz").status_code == 200:
                pass
            refused = httpx.post(f"{url}/v1/completions", json=body | {"max_tokens": 1})
            assert refused.status_code == 503  # by a server that is still there
            assert refused.json()["error"]["code"] == "shutting_down"
            process.send_signal(signal.SIGINT)
            *_, error, done = [line for line in lines if line]
            assert '"code":"shutting_down"' in error  # told, not cut off
            assert done == "data: [DONE]"
            assert process.wait(30) == 130


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_the_start_is_not_lost(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """By an exit code, not by the signal's default action: process 1 of a container has none. And
    no download is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent_hub:
        silent_hub.settimeout(60)
        port = silent_hub.getsockname()[1]
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
        process = subprocess.Popen(
            [*COMMAND, "somebody/slow-model", "--port", "0"],
            cwd=ROOT,
            env=os.environ | hub,
            # Tests in the background may be deaf to it, which is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            with silent_hub.accept()[0]:  # it asks for the model and gets no answer
                process.send_signal(sent)
                assert process.wait(5) == code
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["./none.gguf"], "none.gguf"),
        (["no-such-model"], "no-such-model"),
        ([str(ROOT / "server")], "config.json"),
    ],
)
def test_a_failed_start_is_one_line(options: list[str], words: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, *options, "--port", "0", "--offline"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OCTAVO_CACHE": str(tmp_path)},
    )
    assert result.returncode == 3
    lines = [line for line in result.stderr.splitlines() if line.startswith("octavo: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in result.stderr


def test_its_log_is_for_machines_where_there_is_no_terminal(
    builtin_model: Path, tmp_path: Path
) -> None:
    """One JSON object a line on standard output, each request once; the queue's time is real."""
    labels = '{engine="0",model_name="smol"}'
    with (
        (tmp_path / "log").open("wb") as log,
        serving(command(builtin_model), stdout=log) as (process, url),
    ):
        body = {"model": "smol", "prompt": "The sea is", "max_tokens": 8, "ignore_eos": True}
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(2):
                assert client.post("/v1/completions", json=body).status_code == 200
            samples: dict[str, str] = {}
            while float(samples.get(f"octavo:generation_tokens_total{labels}", 0)) < 16:
                # The engine's counts may be a tenth of a second old.
                page = client.get("/metrics").text
                samples = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
            stats = client.get("/stats").json()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    requests = [event for event in events if event["event"] == "request_finished"]
    assert len(requests) == 2
    for request in requests:
        assert 0 <= request["queue_ms"] <= request["ttft_ms"] <= request["e2e_ms"]
        assert request["completion_tokens"] <= 8
        assert request["itl_ms"] > 0
    assert float(samples[f"octavo:request_queue_time_seconds_count{labels}"]) == 2
    assert float(samples[f"octavo:kv_cache_usage_perc{labels}"]) == 0
    assert stats["engine"]["ready"] is True
    assert stats["queue_time"]["mean"] < stats["request_latency"]["mean"]


# Run by every Python that starts. It notes the number of frozen objects, by process.
NOTE_FREEZING = """
import gc, os, pathlib
freeze = gc.freeze
def note():
    freeze()
    pathlib.Path(os.environ["NOTES"], str(os.getpid())).write_text(str(gc.get_freeze_count()))
gc.freeze = note
"""


def test_searches_for_garbage_leave_out_what_is_loaded(builtin_model: Path, tmp_path: Path) -> None:
    """Else each takes as long as a few steps, in the server's process and in the engine's."""
    (tmp_path / "sitecustomize.py").write_text(NOTE_FREEZING)
    notes = tmp_path / "notes"
    notes.mkdir()
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    environment = {"PYTHONPATH": path, "NOTES": str(notes)}
    with serving(command(builtin_model), environment=environment) as (process, _):
        counts = {int(note.name): int(note.read_text()) for note in notes.iterdir()}
    assert process.pid in counts
    assert len(counts) == 2
    assert min(counts.values()) > 50_000
