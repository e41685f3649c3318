"""`octavo chat`: the options of a conversation, put together into a session."""

from __future__ import annotations

import sys
from typing import Any

import click

from octavo_client.chat.commands import SlashCommands
from octavo_client.chat.prompt import ChatPrompts
from octavo_client.chat.reading import PipeReader, Reader, history_file, terminal_reader
from octavo_client.chat.session import Session
from octavo_client.grouped_help import GroupedCommand, GroupedOption
from octavo_client.options import first_model, open_client, server_options
from octavo_client.parameters import CHAT_PARAMETERS, parameter_options

CONVERSATION = "Conversation"


@click.command(cls=GroupedCommand)
@server_options
@click.option(
    "--system",
    metavar="TEXT",
    cls=GroupedOption,
    group=CONVERSATION,
    help="What the model is told before anything is said.",
)
@click.option(
    "--stats",
    is_flag=True,
    cls=GroupedOption,
    group=CONVERSATION,
    help="After each answer: time to its first token and tok/s.",
)
@click.option(
    "--history/--no-history",
    default=True,
    cls=GroupedOption,
    group=CONVERSATION,
    help="Keep what was typed for the next time (default), in the configuration folder.",
)
@parameter_options(CHAT_PARAMETERS)
def chat(
    url: str | None,
    api_key: str | None,
    model: str | None,
    system: str | None,
    stats: bool,
    history: bool,
    **given: Any,
) -> None:
    """Talk with the model. It remembers what was said until /clear or the end; /help tells the
    rest. Where there is no terminal, each line that is piped in is a message. An answer has at
    most 512 tokens, if --max-tokens does not say."""
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with open_client(url, api_key) as client:
        prompts = ChatPrompts(client)
        name = model or first_model(client)
        # Better to hear now than after the first message that there is no template.
        prompts.make(name, [{"role": "user", "content": "Hello"}])
        session = Session(
            client,
            prompts,
            name,
            system=system,
            parameters={key: value for key, value in given.items() if value not in (None, ())},
            shows_stats=stats,
            is_interactive=is_interactive,
        )
        commands = SlashCommands()
        reader: Reader = PipeReader()
        if is_interactive:
            reader = terminal_reader(commands.words, history_file() if history else None)
            session.tell(f"{name} at {client.base_url}")
        session.run(reader, commands)
