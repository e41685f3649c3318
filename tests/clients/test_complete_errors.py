"""`octavo complete` where something is wrong: the server, its answer, the request, the pipes."""

from __future__ import annotations

import subprocess

import pytest
from fault_server import (
    DONE,
    STREAM_HEAD,
    FaultServer,
    chunk,
    event,
    framed,
    head,
    json_answer,
    stream_answer,
)
from test_complete_command import COMMAND, STREAM, complete, environment


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_answer({"error": {"message": "No such model."}}, 404), "No such model."),
        (json_answer({"error": {"message": "a\x1b[2J\nb"}}, 404), "a\ufffd[2J b"),
        ([head(403, "text/html"), b"<html>\r\n<b>No</b>\r\n</html>"], "<html> <b>No</b> </html>"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["Gr\udcfc\u00dfe"],  # a byte that is no UTF-8, as Python has it
        ["x", "--temperature", "nan"],
        ["x", "--param", "typical_p=Infinity"],
    ],
)
def test_what_cannot_be_sent(server: FaultServer, arguments: list[str]) -> None:
    run = complete(server, "--model", "m", *arguments)
    assert (run.returncode, run.stdout, server.requests) == (1, "", [])
    assert run.stderr.startswith("Error: the request cannot be sent: ")
    assert run.stderr.count("\n") == 1


def test_a_prompt_without_end(server: FaultServer) -> None:
    run = complete(server, "--model", "m", piped="x" * (17 << 20))
    assert (run.returncode, run.stdout, server.requests) == (2, "", [])
    assert "the prompt is longer than 16 MiB" in run.stderr


def test_a_terminal_without_a_character(server: FaultServer) -> None:
    server.answers = [STREAM]
    run = complete(server, "x", "--model", "m", PYTHONIOENCODING="koi8-r")
    assert (run.returncode, run.stdout, run.stderr) == (0, " Par\\xeds\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_stream_that_is_closed(server: FaultServer, closed: str) -> None:
    server.answers = [STREAM]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "x", "--model", "m", "--stats"]
    run = subprocess.run(
        command, env=environment(server), capture_output=True, encoding="utf-8", timeout=30
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ("" if closed == ">&-" else " París\n")
    assert "Traceback" not in run.stderr


def test_a_reader_that_goes_away(server: FaultServer) -> None:
    pieces = [event(chunk("x" * 1000)) for _ in range(1000)]
    server.answers = [stream_answer(*pieces, DONE)]
    command = ["sh", "-c", '"$@" | head -c 1', "sh", *COMMAND, "x", "--model", "m"]
    run = subprocess.run(command, env=environment(server), capture_output=True, timeout=30)
    assert (run.stdout, run.stderr) == (b"x", b"")


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ([], "`octavo serve` starts one, --url names another."),
        (
            json_answer({"error": {"message": "The API key is not valid."}}, 401),
            "not valid. --api-key or OCTAVO_API_KEY gives the key.",
        ),
    ],
)
def test_what_to_do_about_an_error(
    server: FaultServer, answer: list[bytes | str], advice: str
) -> None:
    server.answers = [answer]
    run = complete(server, "x", "--model", "m")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.endswith(f"{advice}\n")
    assert run.stderr.count("\n") == 1


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
