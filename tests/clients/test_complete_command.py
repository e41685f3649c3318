"""`octavo complete` as a process of its own, against a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server import (
    DONE,
    SILENCE,
    STREAM_HEAD,
    FaultServer,
    chunk,
    event,
    framed,
    head,
    json_answer,
    stream_answer,
)

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"
COMMAND = [sys.executable, "-m", "octavo_client", "complete"]

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COUNTED = event({**chunk(""), "choices": [], "usage": USAGE})
STREAM = stream_answer(event(chunk(" Par")), event(chunk("ís", "length")), COUNTED, DONE)
MODELS = json_answer({"object": "list", "data": [{"id": "first"}, {"id": "second"}]})


def environment(server: FaultServer) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CLIENT), "OCTAVO_BASE_URL": server.base_url}


def complete(
    server: FaultServer, *arguments: str, piped: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(server),
        input=piped,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )


def test_a_prompt_is_completed_by_the_first_model(server: FaultServer) -> None:
    server.answers = [MODELS, STREAM]
    run = complete(server, "The capital of France is")
    assert (run.returncode, run.stdout, run.stderr) == (0, " París\n", "")
    assert server.requests[1].json == {
        "model": "first",
        "prompt": "The capital of France is",
        "max_tokens": 128,
        "n": 1,
        "stream": True,
    }


def test_every_option_is_sent(server: FaultServer) -> None:
    server.answers = [STREAM]
    options = "--model m --api-key k --max-tokens 3 --temperature 0 --top-p 0.5 --seed 7"
    run = complete(server, "x", *options.split(), "--stop", "a", "--stop", "b", "--stats")
    assert run.returncode == 0
    (request,) = server.requests
    assert request.headers["authorization"] == "Bearer k"
    assert request.json == {
        "model": "m",
        "prompt": "x",
        "max_tokens": 3,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["a", "b"],
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_prompt_may_be_piped_in(server: FaultServer, arguments: list[str]) -> None:
    server.answers = [STREAM]
    run = complete(server, "--model", "m", *arguments, piped="Zwei\nZeilen: ü\n\n")
    assert run.returncode == 0
    assert server.requests[0].json["prompt"] == "Zwei\nZeilen: ü\n"


def test_statistics(server: FaultServer) -> None:
    server.answers = [STREAM]
    run = complete(server, "x", "--model", "m", "--stats")
    assert run.stdout == " París\n"
    assert re.fullmatch(
        r"first token after [\d.]+ s; 5 tokens in, 2 out; "
        r"[\d.]+ s in all, [\d.]+ tok/s after the first\n",
        run.stderr,
    )


def test_not_streamed(server: FaultServer) -> None:
    server.answers = [json_answer({**chunk(" Paris.\n", "stop"), "usage": USAGE})]
    run = complete(server, "x", "--model", "m", "--no-stream", "--stats")
    assert run.stdout == " Paris.\n"
    assert re.fullmatch(r"5 tokens in, 2 out; [\d.]+ s in all, [\d.]+ tok/s\n", run.stderr)
    assert server.requests[0].json["stream"] is False


def test_several_choices_come_one_after_the_other(server: FaultServer) -> None:
    answer = chunk("a")
    answer["choices"] = [{"index": i, "text": text} for i, text in enumerate(("a", "b\n"))]
    server.answers = [json_answer(answer)]
    run = complete(server, "x", "--model", "m", "-n", "2")
    assert run.stdout == "--- 1 of 2 ---\na\n--- 2 of 2 ---\nb\n"
    assert (server.requests[0].json["n"], server.requests[0].json["stream"]) == (2, False)


def test_json(server: FaultServer) -> None:
    whole = {**chunk("a", "length"), "usage": USAGE, "novelty": [1]}
    server.answers = [STREAM, json_answer(whole)]
    streamed = complete(server, "x", "--model", "m", "--json", "-n", "2")
    lines = [json.loads(line) for line in streamed.stdout.splitlines()]
    assert [line["choices"][0]["text"] for line in lines[:2]] == [" Par", "ís"]
    assert lines[2]["usage"] == USAGE
    at_once = complete(server, "x", "--model", "m", "--json", "--no-stream")
    assert json.loads(at_once.stdout) == whole


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_answer({"error": {"message": "No such model."}}, 404), "No such model."),
        ([head(), b"{"], "does not answer as the API does"),
        ([], "no answer from"),
        ([STREAM_HEAD, framed(event(chunk("half"))), framed(b"")], "[DONE]"),
        (stream_answer(event(chunk("half")), event({"error": {"message": "Died."}})), "Died."),
    ],
)
def test_an_error_is_one_line(server: FaultServer, answer: list[bytes | str], words: str) -> None:
    server.answers = [answer]
    arguments = ["--no-stream"] if answer[:1] == [head()] else []
    run = complete(server, "x", "--model", "m", *arguments)
    assert run.returncode == 1
    assert words in run.stderr
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("\n") == 1
    assert run.stdout in ("", "half\n")


def test_a_server_without_a_model(server: FaultServer) -> None:
    server.answers = [json_answer({"object": "list", "data": []})]
    run = complete(server, "x")
    assert (run.returncode, run.stdout) == (1, "")
    assert "--model" in run.stderr


def test_an_address_that_is_none(server: FaultServer) -> None:
    run = complete(server, "x", "--url", "localhost:8000")
    assert run.returncode == 2
    assert "http://" in run.stderr
    assert "Traceback" not in run.stderr


def test_text_comes_as_it_is_written_and_an_interrupt_ends_it(server: FaultServer) -> None:
    server.answers = [[STREAM_HEAD, framed(event(chunk("first"))), SILENCE]]
    with subprocess.Popen(
        [*COMMAND, "x", "--model", "m"],
        env=environment(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where the tests run in the background, interrupts are ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"first"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"\n", b"")
