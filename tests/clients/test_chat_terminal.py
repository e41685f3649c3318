"""`octavo chat` at a terminal, against a real socket."""

from __future__ import annotations

import stat
from pathlib import Path

from chat_process import COMMAND, TOO_LONG, applied, at_terminal, environment, says, sent
from fault_server import (
    SILENCE,
    STREAM_HEAD,
    Answer,
    FaultServer,
    chunk,
    event,
    framed,
    json_answer,
)
from pseudo_terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, UP, plain, terminal


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
        screen.type_until(CTRL_C, ">>> ")
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


def test_an_answer_stays_when_another_fails(server: FaultServer, tmp_path: Path) -> None:
    server.answers = [applied(), applied(), says("A."), applied(), TOO_LONG, applied(), says("B.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"One{ENTER}")
        screen.expect("A.\n")
        screen.expect(">>> ")
        screen.type(f"/retry{ENTER}")
        # There is nothing to drop but the message itself.
        screen.expect("Error: The context has 9 tokens.\n")
        screen.expect(">>> ")
        screen.type(f"Two{ENTER}")
        screen.expect("B.\n")
    assert sent(server, "/apply-template")[3]["messages"] == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "Two"},
    ]


def test_a_server_that_goes_away_in_the_middle(server: FaultServer, tmp_path: Path) -> None:
    half: Answer = [STREAM_HEAD, framed(event(chunk("Half")))]
    server.answers = [applied(), applied(), half, applied(), says("Whole.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"One{ENTER}")
        screen.expect("^Half\nError: the connection was lost in the middle of the stream")
        screen.expect(">>> ")
        screen.type(f"/retry{ENTER}")
        screen.expect("^Whole.\n")


def test_a_history_that_cannot_be_written(server: FaultServer, tmp_path: Path) -> None:
    """The disk is full, or there is a folder in its place: the conversation goes on without it."""
    (tmp_path / "octavo").mkdir()
    file = tmp_path / "octavo" / "chat_history"
    file.write_text("# long ago\n+before\n")
    full = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *COMMAND]
    server.answers = [applied(), applied(), says("Yes.")]
    with terminal(full, environment(server, tmp_path), cwd=tmp_path) as screen:
        screen.expect(">>> ")
        screen.type(f"Hello{ENTER}")
        screen.expect("^Yes.\n")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0
    assert "Exception" not in screen.written
    file.unlink()
    file.mkdir()
    server.answers = [applied(), applied(), says("Yes.")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"Hello{ENTER}")
        screen.expect("^Yes.\n")


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


def test_a_server_cannot_steer_the_terminal(server: FaultServer, tmp_path: Path) -> None:
    failed = json_answer({"error": {"message": "b\x1b[2J\nc"}}, 400)
    server.answers = [applied(), applied(), says("a\x1b]0;title\x07b\x9b2J")]
    server.answers += [applied(), failed, applied("d\x1b[2J")]
    with at_terminal(server, tmp_path) as screen:
        screen.type(f"Hello{ENTER}")
        screen.expect("^a\ufffd]0;title\ufffdb\ufffd2J\n")
        assert "\x1b]0;title" not in screen.written
        screen.expect(">>> ")
        screen.type(f"/retry{ENTER}")
        screen.expect("^Error: b\ufffd\\[2J c\n")
        screen.expect(">>> ")
        screen.type(f"/show prompt{ENTER}")
        screen.expect("^d\ufffd\\[2J\n")
