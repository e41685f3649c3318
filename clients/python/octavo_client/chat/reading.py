"""Where lines come from: a terminal with editing and history, or whatever is piped in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import click

PROMPT = ">>> "
CONTINUATION = "... "
QUOTES = '"""'
# Of what is piped in: more than servers take. A file without line breaks must not fill the memory.
MAX_LINE_BYTES = 16 << 20
PLACEHOLDER = "Send a message (/? for help)"


class Reader(Protocol):
    def read(self, prompt: str) -> str:
        """The next line, or lines that were entered at once, without the last newline.

        Raises EOFError at the end, KeyboardInterrupt for Ctrl+C.
        """


def read_message(reader: Reader) -> str:
    '''The next message: a line, or several between """ and """. Raises as `read` does.'''
    first = reader.read(PROMPT)
    if not first.lstrip().startswith(QUOTES):
        return first
    lines = [first.lstrip().removeprefix(QUOTES)]
    with suppress(EOFError):  # the end ends it too
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(reader.read(CONTINUATION))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


class PipeReader:
    """Lines of standard input, in UTF-8."""

    def read(self, prompt: str) -> str:
        line = sys.stdin.buffer.readline(MAX_LINE_BYTES + 1)
        if not line:
            raise EOFError
        if len(line) > MAX_LINE_BYTES:
            raise click.UsageError(f"a message is longer than {MAX_LINE_BYTES >> 20} MiB")
        try:
            return line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error


class DumbTerminalReader:
    """For terminals that can do nothing but write one character after the other."""

    def read(self, prompt: str) -> str:
        try:
            return input(prompt)
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error


def terminal_reader(words: Sequence[str], history: Path | None) -> Reader:
    """The best that the terminal allows. `words` are completed; without `history` none is kept."""
    # It takes long to import, and pipes do without.
    from prompt_toolkit.utils import is_dumb_terminal

    return DumbTerminalReader() if is_dumb_terminal() else TerminalReader(words, history)


class TerminalReader:
    """A line editor: arrows, history, completion of commands; Alt+Enter goes on in a new line.

    Text that is pasted in is one message, whatever lines it has.
    """

    def __init__(self, words: Sequence[str], history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        class LastingHistory(FileHistory):
            def store_string(self, string: str) -> None:
                with suppress(OSError):  # a full disk ends no conversation
                    super().store_string(string)

        path = None if history is None else _private_file(history)
        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory() if path is None else LastingHistory(str(path)),
            completer=WordCompleter(list(words), sentence=True),
            complete_while_typing=False,
            key_bindings=keys,
            multiline=True,
            prompt_continuation=CONTINUATION,
        )

    def read(self, prompt: str) -> str:
        return self._session.prompt(prompt, placeholder=PLACEHOLDER if prompt == PROMPT else "")


def _not_utf8(error: UnicodeDecodeError) -> click.UsageError:
    return click.UsageError(f"what comes in is not UTF-8: {error}")


def history_file() -> Path:
    """Where the history of `chat` is kept: in the user's configuration folder."""
    return Path(click.get_app_dir("octavo")) / "chat_history"


def _private_file(path: Path) -> Path | None:
    """`path`, made if need be and readable by nobody else; None where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    except OSError:
        return None
    return path
