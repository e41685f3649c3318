"""The load generator against a server on a real socket: failures are counted, never hidden."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from random import Random

import pytest
from fault_server import (
    DONE,
    KEEP_OPEN,
    SILENCE,
    STREAM_HEAD,
    Answer,
    FaultServer,
    chunk,
    event,
    framed,
    json_answer,
    stream_answer,
)
from octavo_client.bench.answer import Answer as BenchAnswer
from octavo_client.bench.datasets import Prompt
from octavo_client.bench.load import Target, poisson_arrivals, run_load

A, B = event(chunk("a")), event(chunk("b", "length"))
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
COUNTED = event({**chunk(""), "choices": [], "usage": USAGE})
GOOD = stream_answer(A, b": ping\n\n", B, COUNTED, DONE)
PROMPT = Prompt([1, 2], 2, 3)


def load(
    base_url: str,
    num_prompts: int = 1,
    *,
    timeout: float = 5.0,
    max_concurrency: int | None = 1,
    arrivals: list[float] | None = None,
) -> list[BenchAnswer]:
    target = Target(base_url, {"Authorization": "Bearer key"}, {"model": "m"}, timeout)
    answers, seconds = asyncio.run(
        run_load(target, [PROMPT] * num_prompts, max_concurrency=max_concurrency, arrivals=arrivals)
    )
    assert len(answers) == num_prompts
    assert seconds > 0
    return answers


def test_a_whole_answer(server: FaultServer) -> None:
    server.answers = [GOOD]
    (answer,) = load(server.base_url)
    assert answer.error is None
    assert len(answer.arrivals) == 2
    assert answer.started < answer.arrivals[0] <= answer.arrivals[1]
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (7, 3)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/completions")
    assert request.headers["authorization"] == "Bearer key"
    assert request.json == {"model": "m", "prompt": [1, 2], "max_tokens": 3}


def test_a_server_that_does_not_count(server: FaultServer) -> None:
    server.answers = [stream_answer(A, B, DONE)]
    (answer,) = load(server.base_url)
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (None, None)


REFUSAL = json_answer({"error": {"message": "Too many."}}, 429)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (REFUSAL, "HTTP 429: Too many."),
        (json_answer(b"<html>", 502), "HTTP 502.*<html>"),
        (stream_answer(A, B), "DONE"),
        (stream_answer(DONE), "no choices"),
        (stream_answer(A, event({"error": {"message": "Died."}}), DONE), "in the stream: Died."),
        (stream_answer(A, b"data: {\n\n", DONE), "not a completion"),
        (stream_answer(A, b"data: []\n\n", DONE), "not a completion"),
        (stream_answer(A, b"data: 1\n\n", DONE), "not a completion"),
        ([STREAM_HEAD, framed(A)], "middle of the answer"),
        ([], "without an answer"),
        ([b"nonsense\r\n\r\n"], "not HTTP"),
        ([STREAM_HEAD, framed(A), SILENCE], "no whole answer within 0.2 s"),
        ([SILENCE], "no whole answer within 0.2 s"),
    ],
)
def test_failures_have_their_reason(server: FaultServer, fault: Answer, reason: str) -> None:
    server.answers = [fault, GOOD]
    failed, good = load(server.base_url, 2, timeout=0.2)
    assert re.search(reason, failed.error or "")
    assert good.error is None


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        (answer,) = load(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert answer.error is not None
    assert "no connection" in answer.error


def test_connections_are_used_again(server: FaultServer) -> None:
    server.answers = [GOOD]
    answers = load(server.base_url, 6, max_concurrency=2)
    assert [answer.error for answer in answers] == [None] * 6
    assert server.num_connections <= 2


def test_an_idle_connection_that_the_server_closed_is_no_failure(server: FaultServer) -> None:
    server.answers = [[piece for piece in GOOD if piece != KEEP_OPEN]]
    assert [answer.error for answer in load(server.base_url, 4)] == [None] * 4


def test_an_open_loop_does_not_wait_for_answers(server: FaultServer) -> None:
    server.answers = [[STREAM_HEAD, SILENCE]]
    answers = load(server.base_url, 5, timeout=0.5, max_concurrency=None, arrivals=[0.0] * 5)
    assert len(server.requests) == 5
    starts = [answer.started for answer in answers]
    assert max(starts) - min(starts) < 0.5


def test_a_limit_holds_in_an_open_loop_too(server: FaultServer) -> None:
    server.answers = [GOOD]
    answers = load(server.base_url, 4, max_concurrency=1, arrivals=[0.0] * 4)
    ordered = sorted(answers, key=lambda answer: answer.started)
    for before, after in zip(ordered, ordered[1:], strict=False):
        assert before.arrivals[-1] < after.started


def test_requests_begin_at_their_times(server: FaultServer) -> None:
    server.answers = [GOOD]
    answers = load(server.base_url, 2, max_concurrency=None, arrivals=[0.0, 0.2])
    first, second = sorted(answer.started for answer in answers)
    assert second - first > 0.15


def test_poisson_arrivals() -> None:
    arrivals = poisson_arrivals(2000, 4.0, Random(1))
    assert arrivals == poisson_arrivals(2000, 4.0, Random(1))
    assert arrivals[0] == 0
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] / 1999 == pytest.approx(1 / 4, rel=0.1)
    gaps = [later - at for at, later in zip(arrivals, arrivals[1:], strict=False)]
    # Of an exponential distribution, a share of 1 - 1/e lies below the mean.
    assert sum(gap < 0.25 for gap in gaps) / 1999 == pytest.approx(0.632, abs=0.04)


def test_prompts_are_sent_as_they_are() -> None:
    target = Target("http://host:1/x/v1", {}, {"stream": True}, 1.0)
    head, _, content = target.request(Prompt("Grüße", None, 2)).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x/v1/completions HTTP/1.1\r\nHost: host:1\r\n")
    assert f"Content-Length: {len(content)}".encode() in head
    assert json.loads(content) == {"stream": True, "prompt": "Grüße", "max_tokens": 2}
