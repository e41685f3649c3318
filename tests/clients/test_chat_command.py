"""`octavo chat` as a process of its own: through pipes and at a terminal, against a real socket."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_server import (
    DONE,
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
from pseudo_terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, UP, Terminal, plain, terminal

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"
COMMAND = [sys.executable, "-m", "octavo_client", "chat", "--model", "m"]

NOT_FOUND = json_answer({"error": {"message": "Invalid URL", "code": None}}, 404)
TOO_LONG = json_answer(
    {"error": {"message": "The context has 9 tokens.", "code": "context_length_exceeded"}}, 400
)


def applied(prompt: str = "<prompt>", *stop_token_ids: int) -> Answer:
    return json_answer({"prompt": prompt, "stop_token_ids": list(stop_token_ids)})


def says(*pieces: str, finish_reason: str = "stop") -> Answer:
    *first, last = pieces
    events = [*(event(chunk(text)) for text in first), event(chunk(last, finish_reason))]
    return stream_answer(*events, DONE)


def environment(server: FaultServer, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(CLIENT),
        "OCTAVO_BASE_URL": server.base_url,
        "XDG_CONFIG_HOME": str(home),
        "HOME": str(home),
        "TERM": "xterm-256color",
    }


def chat(
    server: FaultServer, home: Path, piped: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(server, home),
        input=piped,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


@contextmanager
def at_terminal(server: FaultServer, home: Path, *arguments: str) -> Iterator[Terminal]:
    with terminal([*COMMAND, *arguments], environment(server, home), cwd=home) as screen:
        screen.expect(">>> ")
        yield screen


def sent(server: FaultServer, path: str) -> list[dict[str, object]]:
    return [request.json for request in server.requests if request.path.endswith(path)]


def test_each_line_that_is_piped_in_is_a_message(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied("<1>"), says("\nHi", " ü."), applied("<2>"), says("Bye.")]
    run = chat(server, tmp_path, "Hello\n\nGoodbye\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, "Hi ü.\nBye.\n", "")
    _, first, second = sent(server, "/apply-template")
    assert first["messages"] == [{"role": "user", "content": "Hello"}]
    assert second == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi ü."},
            {"role": "user", "content": "Goodbye"},
        ],
        "add_generation_prompt": True,
    }
    assert [body["prompt"] for body in sent(server, "/completions")] == ["<1>", "<2>"]
    assert list(tmp_path.iterdir()) == []  # no history


def test_the_template_is_asked_of_the_server_itself(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("x")]
    chat(server, tmp_path, "Hello\n", "--api-key", "k")
    paths = [request.path for request in server.requests]
    assert paths == ["/apply-template", "/apply-template", "/v1/completions"]
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer k"}


def test_options_are_parameters(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied("<p>", 2, 7), says("x")]
    options = "--system Short. --temperature 0 --stop-token-id 7 --stop A --param mirostat=2"
    run = chat(server, tmp_path, "Hello\n", *options.split())
    assert run.returncode == 0, run.stderr
    assert sent(server, "/apply-template")[1]["messages"] == [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": "Hello"},
    ]
    assert sent(server, "/completions") == [
        {
            "model": "m",
            "prompt": "<p>",
            "max_tokens": 512,
            "temperature": 0.0,
            "stop": ["A"],
            "stop_token_ids": [7, 2],
            "mirostat": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_an_answer_that_is_to_go_on(server: FaultServer, tmp_path: Path) -> None:
    """Past the end of a turn too."""
    server.answers = [applied(), applied("<p>", 2), says("x"), applied("<p>", 2), says("x")]
    run = chat(server, tmp_path, "Hello\n/set ignore_eos on\nHello\n")
    assert run.returncode == 0, run.stderr
    first, second = sent(server, "/completions")
    assert (first["stop_token_ids"], second["ignore_eos"]) == ([2], True)
    assert "stop_token_ids" not in second


def test_a_message_of_several_lines(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("x"), applied(), says("x")]
    run = chat(server, tmp_path, '"""\nOne,\n  two.\n"""\n""" a "" b"""\n')
    assert run.returncode == 0, run.stderr
    *_, first, second = sent(server, "/apply-template")
    assert first["messages"] == [{"role": "user", "content": "One,\n  two."}]
    assert dict(second["messages"][2])["content"] == ' a "" b'  # type: ignore[index]


def test_commands_work_in_pipes(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("One."), applied("P"), says("Two.")]
    lines = [
        "/set temperature 0.5",
        "/set parameter stop 'a b' c",
        "/set system Be brief.",
        "/set top-k 4",
        "/set top_k",
        "Hello",
        "/clear",
        "//path",
        "/show",
        "/exit",
        "never sent",
    ]
    run = chat(server, tmp_path, "\n".join(lines))
    assert (run.returncode, run.stdout) == (0, "One.\nTwo.\n")
    first, second = sent(server, "/completions")
    assert (first["temperature"], first["stop"], "top_k" in first) == (0.5, ["a b", "c"], False)
    assert second["temperature"] == 0.5
    assert sent(server, "/apply-template")[2]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "/path"},
    ]
    for words in ("Be brief.", "temperature 0.5", server.base_url, "turns       1"):
        assert words in run.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/nonsense", "/nonsense"),
        ("/set temparature 1", "temparature"),
        ("/set temperature warm", "temperature: 'warm' is not a valid float"),
        ("/drop two", "'two'"),
        ("/retry", "nothing was said"),
    ],
)
def test_wrong_commands_end_a_script(
    server: FaultServer, tmp_path: Path, line: str, words: str
) -> None:
    server.answers = [applied()]
    run = chat(server, tmp_path, f"{line}\nHello\n")
    assert (run.returncode, run.stdout) == (2, "")
    assert words in run.stderr
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([TOO_LONG], "The context has 9 tokens."),
        ([says("half")[:-3] + [framed(b"")]], "[DONE]"),
        ([json_answer({"error": {"message": "Bad."}}, 400)], "Bad."),
    ],
)
def test_an_error_ends_a_script_in_one_line(
    server: FaultServer, tmp_path: Path, answers: list[Answer], words: str
) -> None:
    server.answers = [applied(), applied(), *answers]
    run = chat(server, tmp_path, "Hello\nHello again\n")
    assert (run.returncode, run.stdout) in [(1, ""), (1, "half\n")]
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert "again" not in str([request.content for request in server.requests])


def test_a_model_without_a_template_is_told_at_once(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [json_answer({"error": {"message": "No chat template."}}, 400)]
    run = chat(server, tmp_path, "Hello\n")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "Error: No chat template.\n")


def test_servers_that_tokenize_conversations(server: FaultServer, tmp_path: Path) -> None:
    """vLLM has no /apply-template."""
    tokens = json_answer({"count": 3, "tokens": [5, 6, 7]})
    server.answers = [NOT_FOUND, tokens, NOT_FOUND, tokens, says("x")]
    run = chat(server, tmp_path, "Hello\n")
    assert run.returncode == 0, run.stderr
    assert sent(server, "/completions")[0]["prompt"] == [5, 6, 7]


def test_servers_that_cannot_chat(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [NOT_FOUND]
    run = chat(server, tmp_path, "Hello\n")
    assert run.returncode == 1
    assert "neither /apply-template nor /tokenize" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_model_that_is_not_there(server: FaultServer, tmp_path: Path) -> None:
    error = {"error": {"message": "No model m.", "code": "model_not_found"}}
    server.answers = [json_answer(error, 404)]
    assert chat(server, tmp_path, "Hello\n").stderr == "Error: No model m.\n"


def test_no_server(tmp_path: Path, server: FaultServer) -> None:
    run = chat(server, tmp_path, "Hello\n", "--url", "http://127.0.0.1:9/v1")
    assert run.returncode == 1
    assert "no answer from http://127.0.0.1:9/apply-template" in run.stderr


def test_a_conversation_at_a_terminal(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("Hi", " there."), applied(), says("Bye.")]
    with at_terminal(server, tmp_path) as screen:
        assert f"m at {server.base_url}" in plain(screen.written)
        screen.type(f"Hello{ENTER}")
        screen.expect("^Hi there.\n")
        screen.expect(">>> ")
        screen.type(f"/set temperature 0.25{ENTER}")
        screen.expect(">>> ")
        screen.type(f"/show{ENTER}")
        screen.expect("temperature 0.25")
        screen.expect(">>> ")
        screen.type(f"/help{ENTER}")
        screen.expect("/retry")
        screen.expect(">>> ")
        screen.type(f"Goodbye{ENTER}")
        screen.expect("^Bye.\n")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0
    assert sent(server, "/completions")[1]["temperature"] == 0.25
    assert len(sent(server, "/apply-template")[2]["messages"]) == 3  # type: ignore[arg-type]


def test_a_terminal_that_can_do_nothing(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("Hi."), applied(), says("Bye.")]
    dumb = environment(server, tmp_path) | {"TERM": "dumb"}
    with terminal(COMMAND, dumb, cwd=tmp_path) as screen:
        screen.expect(">>> ")
        screen.type(f"Hello{ENTER}")
        screen.expect("^Hi.\n")
        screen.expect(">>> ")
        screen.type(CTRL_C)
        screen.expect(">>> ")
        screen.type(f"Goodbye{ENTER}")
        screen.expect("^Bye.\n")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0
    assert "\x1b" not in screen.written


def test_several_lines_at_a_terminal(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), *[applied(), says("Yes.")] * 3]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f'"""One{ENTER}')
        screen.expect(r"\.\.\.")
        screen.type(f'two"""{ENTER}')
        screen.expect("Yes.\n")
        screen.expect(">>> ")
        screen.type(f"Three{ALT_ENTER}four{ENTER}")
        screen.expect("Yes.\n")
        screen.expect(">>> ")
        screen.type(f"\x1b[200~Five\nsix\x1b[201~{ENTER}")  # pasted in
        screen.expect("Yes.\n")
        screen.expect(">>> ")
        screen.type(f"/bye{ENTER}")
        assert screen.wait() == 0
    messages = [list(body["messages"])[-1] for body in sent(server, "/apply-template")]  # type: ignore[call-overload]
    assert [message["content"] for message in messages[1:]] == [
        "One\ntwo",
        "Three\nfour",
        "Five\nsix",
    ]


def test_ctrl_c_stops_the_answer_and_nothing_else(server: FaultServer, tmp_path: Path) -> None:
    endless: Answer = [STREAM_HEAD, framed(event(chunk("Once"))), SILENCE]
    server.answers = [applied(), applied(), endless, applied(), says("Yes.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"Tell me{ENTER}")
        screen.expect("^Once")
        screen.type(CTRL_C)
        screen.expect(r"\(stopped\)")
        screen.expect(">>> ")
        screen.type(f"half a line{CTRL_C}")
        screen.expect(r"\(Ctrl\+D or /exit leaves\)")
        screen.expect(">>> ")
        screen.type(f"Really?{ENTER}")
        screen.expect("^Yes.\n")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0
    # What had come of the answer belongs to the conversation.
    assert sent(server, "/apply-template")[2]["messages"] == [
        {"role": "user", "content": "Tell me"},
        {"role": "assistant", "content": "Once"},
        {"role": "user", "content": "Really?"},
    ]


def test_a_conversation_that_grew_too_long(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("A."), applied(), TOO_LONG, applied(), says("B.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"One{ENTER}")
        screen.expect("A.\n")
        screen.expect(">>> ")
        screen.type(f"Two{ENTER}")
        screen.expect("Error: The context has 9 tokens. /drop forgets the oldest turn, then /retry")
        screen.expect(">>> ")
        screen.type(f"/drop{ENTER}")
        screen.expect(r"\(forgot 1, 1 left\)")
        screen.expect(">>> ")
        screen.type(f"/retry{ENTER}")
        screen.expect("B.\n")
    assert sent(server, "/apply-template")[3]["messages"] == [{"role": "user", "content": "Two"}]


def test_a_message_that_got_no_answer_is_forgotten(server: FaultServer, tmp_path: Path) -> None:
    """Two messages in a row suit no template."""
    server.answers = [applied(), applied(), TOO_LONG, applied(), says("B.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"One{ENTER}")
        screen.expect("Error: ")
        screen.expect(">>> ")
        screen.type(f"Two{ENTER}")
        screen.expect("B.\n")
    assert sent(server, "/apply-template")[2]["messages"] == [{"role": "user", "content": "Two"}]


def test_the_history_is_there_the_next_time(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("Yes."), applied(), applied(), says("Again.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"Remember me{ENTER}")
        screen.expect("Yes.\n")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0
    file = tmp_path / "octavo" / "chat_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"{UP}{ENTER}")
        screen.expect("Again.\n")
    assert list(sent(server, "/apply-template")[3]["messages"]) == [  # type: ignore[call-overload]
        {"role": "user", "content": "Remember me"}
    ]


def test_no_history(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("Yes.")]
    with at_terminal(server, tmp_path, "--no-history") as screen:
        screen.type(f"Forget me{ENTER}")
        screen.expect("Yes.\n")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_an_answer_cannot_steer_the_terminal(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("a\x1b]0;title\x07b\x9b2J")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"Hello{ENTER}")
        screen.expect("^a\ufffd]0;title\ufffdb\ufffd2J\n")
        assert "\x1b]0;title" not in screen.written


def test_statistics_after_each_answer(server: FaultServer, tmp_path: Path) -> None:
    counted = {
        **chunk(""),
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    answer = stream_answer(event(chunk("a")), event(chunk("b", "length")), event(counted), DONE)
    server.answers = [applied(), applied(), answer]
    run = chat(server, tmp_path, "Hello\n", "--stats")
    cut, stats = run.stderr.splitlines()
    assert "max_tokens" in cut
    assert "5 tokens in, 2 out" in stats
