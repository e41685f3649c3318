"""The words that begin with a slash. Their names are Ollama's."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

import click

from octavo_client.chat.session import DEFAULT_MAX_TOKENS, Session
from octavo_client.parameters import CHAT_PARAMETERS, body_of, parse_value

HELP = '''\
/set NAME VALUE   a parameter of the API, "system" or "stats"; without VALUE: unset
/show             model, server, parameters and how much was said
/show prompt      the conversation as the model gets it
/clear            forget the conversation
/drop [N]         forget its N oldest turns (1)
/retry            answer the last message again
/help, /?         this
/exit, /bye       leave, as Ctrl+D does

""" before and after a message of several lines, or Alt+Enter at the end of a line.
Ctrl+C stops an answer. A message that begins with a slash begins with two.'''

_PARAMETERS = {parameter.name: parameter for parameter in CHAT_PARAMETERS}
_Command = Callable[[Session, str], None]


class SlashCommands:
    """Finds a command by its word."""

    def __init__(self) -> None:
        self._commands: dict[str, _Command] = {
            "/set": _set,
            "/show": _show,
            "/clear": _clear,
            "/drop": _drop,
            "/retry": _retry,
            "/help": _help,
            "/?": _help,
            "/exit": _exit,
            "/bye": _exit,
            "/quit": _exit,
        }

    @property
    def words(self) -> list[str]:
        """What may be typed, for completion."""
        names = [f"/set {name}" for name in ("system", "stats", *_PARAMETERS)]
        return [*self._commands, *names, "/show prompt"]

    def run(self, session: Session, line: str) -> None:
        word, rest = [*line.split(maxsplit=1), ""][:2]
        command = self._commands.get(word)
        if command is None:
            raise click.UsageError(f"there is no {word}; /help tells what there is")
        command(session, rest.strip())


def _set(session: Session, rest: str) -> None:
    name, _, text = rest.removeprefix("parameter ").strip().partition(" ")
    name, text = name.replace("-", "_"), text.strip()
    if not name:
        _show(session, "")
    elif name == "system":
        session.conversation.system = text or None
    elif name in ("stats", "verbose"):
        session.shows_stats = bool(click.BOOL.convert(text or "off", None, None))
    elif name not in _PARAMETERS:
        names = ", ".join(("system", "stats", *_PARAMETERS))
        raise click.UsageError(f"there is no {name}; there are {names}")
    elif text:
        session.parameters[name] = parse_value(_PARAMETERS[name], _words(text))
    else:
        session.parameters.pop(name, None)


def _words(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote alone
        return text.split()


def _show(session: Session, rest: str) -> None:
    if rest == "prompt":
        prompt = session.prompt().prompt
        session.tell(str(prompt))  # a text, or the ids of its tokens
        return
    given = {"max_tokens": DEFAULT_MAX_TOKENS, **body_of(session.parameters)}
    parameters = ", ".join(f"{name} {value}" for name, value in given.items())
    rows = {
        "model": session.model,
        "server": session.client.base_url,
        "system": session.conversation.system or "(the template's own)",
        "parameters": parameters,
        "turns": str(len(session.conversation.turns)),
    }
    for name, value in rows.items():
        session.tell(f"{name:<11} {value}")


def _clear(session: Session, rest: str) -> None:
    session.conversation.clear()


def _drop(session: Session, rest: str) -> None:
    if rest and not rest.isdecimal():
        raise click.UsageError(f"/drop takes a number, not {rest!r}")
    num_dropped = session.conversation.drop_oldest(int(rest or 1))
    session.tell(f"(forgot {num_dropped}, {len(session.conversation.turns)} left)")


def _retry(session: Session, rest: str) -> None:
    session.answer()


def _help(session: Session, rest: str) -> None:
    session.tell(HELP)


def _exit(session: Session, rest: str) -> None:
    raise EOFError
