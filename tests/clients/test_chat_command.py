"""`octavo chat` through pipes, against a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_process import NOT_FOUND, TOO_LONG, applied, chat, says, sent
from fault_server import DONE, Answer, FaultServer, chunk, event, framed, json_answer, stream_answer


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
        ("/show prompt", "nothing was said"),
        ("/usr/bin\tis full", "there is no /usr/bin;"),
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


def test_a_model_that_vllm_does_not_have(server: FaultServer, tmp_path: Path) -> None:
    error = {"error": {"message": "The model `m` does not exist.", "param": None, "code": 404}}
    server.answers = [NOT_FOUND, json_answer(error, 404)]
    run = chat(server, tmp_path, "Hello\n")
    assert (run.returncode, run.stderr) == (1, "Error: The model `m` does not exist.\n")


def test_a_server_that_is_busy_is_asked_again(server: FaultServer, tmp_path: Path) -> None:
    busy = json_answer({"error": {"message": "Busy."}}, 503, retry_after_ms="1")
    server.answers = [busy, applied(), busy, applied("<p>"), busy, says("x")]
    run = chat(server, tmp_path, "Hello\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, "x\n", "")
    server.answers = [busy]
    assert chat(server, tmp_path, "Hello\n").stderr == "Error: Busy. (3 attempts)\n"


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


def test_parameters_that_are_shown(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied()]
    run = chat(server, tmp_path, "/show\n", "--param", "mirostat=2", "--logit-bias", "5=-1")
    assert "parameters  max_tokens 512, logit_bias {'5': -1.0}, mirostat 2\n" in run.stderr


def test_lines_from_windows(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("x")]
    run = chat(server, tmp_path, "/set temperature 0\r\nHello\r\n\r\n/exit\r\n")
    assert run.returncode == 0, run.stderr
    assert sent(server, "/apply-template")[1]["messages"] == [{"role": "user", "content": "Hello"}]


def test_a_line_without_end(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied()]
    run = chat(server, tmp_path, "x" * (17 << 20))
    assert (run.returncode, run.stdout, len(server.requests)) == (2, "", 1)
    assert "a message is longer than 16 MiB" in run.stderr


def test_what_is_no_text(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied()]
    run = chat(server, tmp_path, "Gr\udcfc\u00dfe\n")
    assert (run.returncode, run.stdout) == (2, "")
    assert "not UTF-8" in run.stderr


def test_no_server(tmp_path: Path, server: FaultServer) -> None:
    run = chat(server, tmp_path, "Hello\n", "--url", "http://127.0.0.1:9/v1")
    assert run.returncode == 1
    assert "no answer from http://127.0.0.1:9/apply-template" in run.stderr


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
