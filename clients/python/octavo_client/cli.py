"""The command `octavo`: a group whose commands come from here and from other distributions.

Whoever has a command registers it in the entry-point group `octavo.commands`. A command's module is
imported when the command is asked for, not before: `octavo --help` needs none of them. Knows
nothing of what the commands do, but how their failures end the process.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points

import click
from click.shell_completion import CompletionItem

from octavo_client._errors import APIConnectionError, APIError, AuthenticationError
from octavo_client.grouped_help import write_section
from octavo_client.screen import one_line

ENTRY_POINT_GROUP = "octavo.commands"
EXIT_INTERRUPTED = 130

# This distribution's own, found without its being installed.
OWN_COMMANDS = {
    "bench": "octavo_client.bench.command:bench",
    "chat": "octavo_client.chat.command:chat",
    "complete": "octavo_client.complete:complete",
    "completion": "octavo_client.completion:completion",
}
# Groups of commands, with a line for each, so that listing them does not import them.
GROUPS = {
    "Talk to a server": {
        "complete": "Complete a prompt.",
        "chat": "Talk with the model.",
        "bench": "Measure a server.",
    },
    "Run a server": {
        "serve": "Serve a model over HTTP.",
        "pull": "Download a model.",
        "models": "List the models on this machine.",
        "doctor": "Say what this machine has, and what would make it faster.",
    },
    "This command": {
        "completion": "Print what makes a shell complete commands and options.",
    },
}
OTHERS = "Further commands"
SERVER_COMMANDS = {"doctor", "models", "pull", "serve"}


class LazyGroup(click.Group):
    """A group that finds further commands as entry points and loads each on first use."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what the server or the user stops ends in one line, not a traceback."""
        try:
            return super().invoke(ctx)
        except APIError as error:
            raise click.ClickException(one_line(f"{error}{_advice(error)}")) from error
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_registered()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; a `click.UsageError` when it is not installed, broken or
        almost another's name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        entry_point = _registered().get(cmd_name)
        if entry_point is not None:
            return _load(entry_point)
        if cmd_name in SERVER_COMMANDS:
            raise click.UsageError(
                f"'{cmd_name}' is a command of the server, which is not installed here: it is on "
                "no package index; `pip install` the folder of Octavo's sources."
            )
        # click's own suggestion knows only of commands that are loaded.
        if close := get_close_matches(cmd_name, SERVER_COMMANDS.union(self.list_commands(ctx)), 1):
            raise click.UsageError(f"No such command '{cmd_name}'. Did you mean '{close[0]}'?", ctx)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from names alone where a command is not loaded yet."""
        rest = dict(self._summaries(ctx))
        for heading, summaries in GROUPS.items():
            rows = [(name, rest.pop(name)) for name in summaries if name in rest]
            write_section(formatter, heading, rows)
        write_section(formatter, OTHERS, list(rest.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's own; a shell that asks how a line goes on hears nothing of what is wrong."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if not ctx.resilient_parsing:
                raise
            return None, None, args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click's own, which would load every command to see whether it is hidden."""
        own = [param for param in self.get_params(ctx) if incomplete[:1] == "-"]
        flags = [flag for param in own for flag in param.opts if flag.startswith(incomplete)]
        commands = [row for row in self._summaries(ctx) if row[0].startswith(incomplete)]
        return [
            *(CompletionItem(name, help=summary) for name, summary in commands),
            *(CompletionItem(flag) for flag in flags),
        ]

    def _summaries(self, ctx: click.Context) -> Iterator[tuple[str, str]]:
        """Each command's name and a line about it."""
        known = {name: line for rows in GROUPS.values() for name, line in rows.items()}
        registered = _registered()
        for name in self.list_commands(ctx):
            if name in self.commands:
                yield name, self.commands[name].get_short_help_str(limit=80)
            else:
                dist = registered[name].dist
                yield name, known.get(name, f"Comes from {dist.name}." if dist else "")


def _registered() -> dict[str, EntryPoint]:
    own = [EntryPoint(*item, ENTRY_POINT_GROUP) for item in OWN_COMMANDS.items()]
    return {found.name: found for found in [*entry_points(group=ENTRY_POINT_GROUP), *own]}


def _load(entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise click.UsageError(
            f"the command '{entry_point.name}' cannot be loaded from {entry_point.value}: {error}"
        ) from error
    if not isinstance(command, click.Command):
        raise click.UsageError(f"{entry_point.value} is not a command")
    return command


def _advice(error: APIError) -> str:
    """What to do about it on a command line: the error's own words are for programs too."""
    if type(error) is APIConnectionError:  # and none of its kinds: nobody is there
        return ". Is a server running? `octavo serve` starts one, --url names another."
    if isinstance(error, AuthenticationError):
        return " --api-key or OCTAVO_API_KEY gives the key."
    return ""


def _prepare_streams() -> None:
    """A stream that was closed before the start is an empty one, and what standard output cannot
    encode is written as an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="octavo-client", prog_name="octavo")
def main() -> None:
    """Octavo, an inference server for language models.

    Each command tells about itself: octavo COMMAND --help.
    """
    _prepare_streams()
