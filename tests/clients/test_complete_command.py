"""`octavo complete` as a process of its own, against a real socket."""

from __future__ import annotations

import json
import math
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
    json_answer,
    stream_answer,
)
from pseudo_terminal import plain, terminal

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"
COMMAND = [sys.executable, "-m", "octavo_client", "complete"]

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COUNTED = event({**chunk(""), "choices": [], "usage": USAGE})
STREAM = stream_answer(event(chunk(" Par")), event(chunk("ís", "length")), COUNTED, DONE)
MODELS = json_answer({"object": "list", "data": [{"id": "first"}, {"id": "second"}]})


def environment(server: FaultServer, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(CLIENT),
        "OCTAVO_BASE_URL": server.base_url,
        "TERM": "xterm-256color",
        **variables,
    }


def complete(
    server: FaultServer, *arguments: str, piped: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(server, **variables),
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
        "stream": True,
    }


def test_options_are_sent(server: FaultServer) -> None:
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
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_forms_that_options_take(server: FaultServer) -> None:
    """Flags both ways, pairs, lists, JSON; what is not given is not sent."""
    server.answers = [STREAM]
    options = (
        "--no-add-special-tokens --ignore-eos --logit-bias 5=-100 --logit-bias 6=1.5 "
        "--stop-token-id 1 --stop-token-id 2 --bad-word no --truncation-side right "
        "--param mirostat=2 --param grammar=root --param samplers=[1]"
    )
    run = complete(server, "x", "--model", "m", *options.split())
    assert run.returncode == 0, run.stderr
    assert server.requests[0].json == {
        "model": "m",
        "prompt": "x",
        "max_tokens": 128,
        "add_special_tokens": False,
        "ignore_eos": True,
        "logit_bias": {"5": -100.0, "6": 1.5},
        "stop_token_ids": [1, 2],
        "bad_words": ["no"],
        "truncation_side": "right",
        "mirostat": 2,
        "grammar": "root",
        "samplers": [1],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--logit-bias", "word=1"], "'word=1' is not a token id"),
        (["--logit-bias", "5=x"], "'5=x' is not a token id"),
        (["--param", "mirostat"], "'mirostat' is not a name"),
        (["--early-stopping", "perhaps"], "perhaps"),
        (["--file", "no-such-file"], "no-such-file"),
        (["--file", "-"], "not both"),
    ],
)
def test_options_that_make_no_sense(server: FaultServer, options: list[str], words: str) -> None:
    run = complete(server, "x", "--model", "m", *options)
    assert (run.returncode, run.stdout, server.requests) == (2, "", [])
    assert words in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("options", "is_streamed"),
    [
        ("--best-of 2", False),
        ("--beam-search -n 2", False),
        ("--prompt-logprobs 1 --json", False),
        ("-n 2 --json", True),
        ("-n 2", False),
        ("--best-of 0", True),
    ],
)
def test_what_cannot_be_streamed_is_not(
    server: FaultServer, options: str, is_streamed: bool
) -> None:
    server.answers = [STREAM if is_streamed else json_answer(chunk("a", "stop"))]
    run = complete(server, "x", "--model", "m", *options.split())
    assert run.returncode == 0, run.stderr
    assert server.requests[0].json["stream"] is is_streamed


def test_the_prompt_may_be_a_file(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [STREAM]
    file = tmp_path / "prompt.txt"
    file.write_text("Zeile: \u00fc\n\n")
    assert complete(server, "--model", "m", "--file", str(file)).returncode == 0
    assert complete(server, "--model", "m", "--file", "-", piped="piped\n").returncode == 0
    assert [request.json["prompt"] for request in server.requests] == ["Zeile: \u00fc\n", "piped"]


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


def scored(tokens: dict[str, float | None], **others: float) -> dict[str, object]:
    """A chunk of these tokens, with probabilities; `others` are alternatives to each."""
    body = chunk("".join(tokens))
    logprobs = [None if p is None else math.log(p) for p in tokens.values()]
    body["choices"][0]["logprobs"] = {  # type: ignore[index]
        "tokens": list(tokens),
        "token_logprobs": logprobs,
        "top_logprobs": [
            None
            if logprob is None
            else {token: logprob} | {other: math.log(p) for other, p in others.items()}
            for token, logprob in zip(tokens, logprobs, strict=True)
        ],
        "text_offset": [0] * len(tokens),
    }
    return body


# A character of three tokens, a line's end, a token without a probability, one that is a control.
SCORED = stream_answer(
    event(scored({" Par": 0.9, "is": 0.6, "bytes:\\xe2": 0.5, "bytes:\\x82": 1.0}, Rome=0.25)),
    event(scored({"bytes:\\xac": 0.5, "\n": 0.1, "\x1b": 0.3})),
    event(scored({"<s>": None})),
    DONE,
)


@pytest.mark.parametrize("options", [[], ["--top-logprobs", "1"]])
def test_tokens_and_probabilities_as_a_table(server: FaultServer, options: list[str]) -> None:
    server.answers = [SCORED]
    run = complete(server, "x", "--model", "m", "--logprobs", *options)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (
        "      p  token                 others\n"
        '  90.0%  " Par"                "Rome" 25.0%\n'
        '  60.0%  "is"                  "Rome" 25.0%\n'
        '  25.0%  "\u20ac"\n'
        '  10.0%  "\\n"\n'
        '  30.0%  "\\u001b"\n'
        '      -  "<s>"\n'
    )
    assert run.stderr == "perplexity 3.01 over 5 tokens\n"
    assert server.requests[0].json["logprobs"] == int(options[1] if options else 3)


def test_a_server_that_gives_no_probabilities(server: FaultServer) -> None:
    server.answers = [STREAM]
    run = complete(server, "x", "--model", "m", "--logprobs")
    assert (run.returncode, run.stdout) == (0, " París\n")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {}])
def test_tokens_are_painted_on_a_terminal(
    server: FaultServer, tmp_path: Path, variables: dict[str, str]
) -> None:
    server.answers = [SCORED]
    command = [*COMMAND, "x", "--model", "m", "--logprobs"]
    shown = {name: v for name, v in environment(server).items() if name != "NO_COLOR"}
    with terminal(command, shown | variables, cwd=tmp_path) as screen:
        assert screen.wait() == 0
    if variables:
        assert '  60.0%  "is"' in plain(screen.written)
        assert "\x1b[" not in screen.written
        return
    text = screen.written.replace("\r", "")
    assert text.startswith(
        " Par\x1b[36mis\x1b[0m\x1b[4;33m\u20ac\x1b[0m\n\x1b[4;33m\ufffd\x1b[0m<s>\nprobability: "
    ), repr(text)
    assert "below 20 %" in text
    least_certain = [line.split()[1] for line in plain(text).splitlines() if "%  " in line[:10]]
    assert least_certain == ['"\\n"', '"\u20ac"', '"\\u001b"']
    assert "perplexity 3.01" in text


def test_text_cannot_steer_a_terminal(server: FaultServer, tmp_path: Path) -> None:
    """Where it is piped on it stays as it is."""
    server.answers = [stream_answer(event(chunk("a\x1b[2Jb", "stop")), DONE)]
    with terminal([*COMMAND, "x", "--model", "m"], environment(server), cwd=tmp_path) as screen:
        assert screen.wait() == 0
    assert screen.written == "a\ufffd[2Jb\r\n"
    assert complete(server, "x", "--model", "m").stdout == "a\x1b[2Jb\n"


def test_text_comes_as_it_is_written_and_an_interrupt_ends_it(server: FaultServer) -> None:
    server.answers = [[STREAM_HEAD, framed(event(chunk("first"))), SILENCE]]
    with subprocess.Popen(
        [*COMMAND, "x", "--model", "m"],
        env=environment(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"first"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"\n", b"")
