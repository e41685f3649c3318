"""The conversation as it goes: a message in, the answer printed, what comes between told in a line.

Knows commands by their interface only, and the terminal not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import click

from octavo_client._client import Client
from octavo_client._errors import APIError
from octavo_client.chat.answer import Answer
from octavo_client.chat.conversation import Conversation, Turn
from octavo_client.chat.prompt import ChatPrompt, ChatPrompts
from octavo_client.chat.reading import Reader, read_message
from octavo_client.parameters import body_of
from octavo_client.screen import one_line, printable
from octavo_client.stopwatch import Stopwatch

DEFAULT_MAX_TOKENS = 512
TOO_LONG = "context_length_exceeded"


class Commands(Protocol):
    def run(self, session: Session, line: str) -> None:
        """Do what a line says that begins with a slash. Raises click.UsageError, or EOFError to
        leave."""


class Session:
    """A conversation with one model of one server.

    `parameters` are values by the API's names. Where `is_interactive`, errors and interrupts end an
    answer; elsewhere they end the session.
    """

    def __init__(
        self,
        client: Client,
        prompts: ChatPrompts,
        model: str,
        *,
        system: str | None,
        parameters: dict[str, Any],
        shows_stats: bool,
        is_interactive: bool,
    ) -> None:
        self.client = client
        self.model = model
        self.conversation = Conversation(system)
        self.parameters = parameters
        self.shows_stats = shows_stats
        self.is_interactive = is_interactive
        self._prompts = prompts

    def run(self, reader: Reader, commands: Commands) -> None:
        """Until the lines end."""
        with suppress(EOFError):
            while True:
                self._take(reader, commands)

    def _take(self, reader: Reader, commands: Commands) -> None:
        """One message, or one command. Raises EOFError at the end."""
        try:
            message = read_message(reader)
            if message.startswith("/") and not message.startswith("//"):
                commands.run(self, message)
            elif message.strip():
                self.say(message.removeprefix("/") if message[:2] == "//" else message)
        except KeyboardInterrupt:
            if not self.is_interactive:
                raise
            self.tell("(Ctrl+D or /exit leaves)")
        except (APIError, click.UsageError) as error:
            if not self.is_interactive:
                raise
            self.tell(f"Error: {self._describe(error)}")

    def prompt(self) -> ChatPrompt:
        """The conversation as the model gets it. Raises APIError."""
        if not self.conversation.turns:
            raise click.UsageError("nothing was said yet")
        return self._prompts.make(self.model, self.conversation.messages())

    def say(self, message: str) -> None:
        """Print the answer to `message`, and remember both. Raises APIError."""
        turns = self.conversation.turns
        if turns and turns[-1].answer is None:
            turns.pop()  # nobody answered it, and two messages in a row suit no template
        turns.append(Turn(message))
        self.answer()

    def answer(self) -> None:
        """Answer the last message, anew if it has an answer. Raises APIError."""
        if not self.conversation.turns:
            raise click.UsageError("nothing was said yet")
        turn = self.conversation.turns[-1]
        before, turn.answer = turn.answer, None
        writer = _Writer(printable if self.is_interactive else str)
        answer, stopwatch = Answer(writer.write), Stopwatch()
        body = {"max_tokens": DEFAULT_MAX_TOKENS, **body_of(self.parameters)}
        is_stopped = False
        try:
            answer.stream(self.client, self.model, self.prompt(), body, stopwatch)
        except KeyboardInterrupt:
            if not self.is_interactive:
                raise
            is_stopped = True
        finally:
            writer.finish()
            turn.answer = answer.text or before
        if not answer.text and not is_stopped:
            turn.answer = ""
            click.echo()
        if is_stopped:
            self.tell("(stopped)")
        elif answer.finish_reason == "length":
            self.tell("(cut: /set max_tokens allows more)")
        if self.shows_stats:
            self.tell(stopwatch.report(is_stream=True))

    def tell(self, line: str) -> None:
        """Something that is not the model's, on standard error."""
        click.echo(printable(line), err=True)

    def _describe(self, error: APIError | click.UsageError) -> str:
        """In one line."""
        if isinstance(error, click.UsageError):
            return one_line(error.message)
        is_too_long = error.code == TOO_LONG and len(self.conversation.turns) > 1
        advice = " /drop forgets the oldest turn, then /retry." if is_too_long else ""
        return one_line(f"{error}{advice}")


class _Writer:
    """Answers on standard output, each with a line's end."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._ends_line = True

    def write(self, text: str) -> None:
        self._ends_line = text.endswith("\n")
        click.echo(self._clean(text), nl=False, color=True)

    def finish(self) -> None:
        if not self._ends_line:
            click.echo()
