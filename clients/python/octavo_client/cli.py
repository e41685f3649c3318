"""The command `octavo`: a group whose commands come from here and from other distributions.

Whoever has a command registers it in the entry-point group `octavo.commands`. A command's module is
imported when the command is asked for, not before: `octavo --help` needs none of them. Knows
nothing of what the commands do, but how their failures end the process.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import click

from octavo_client._errors import APIError

ENTRY_POINT_GROUP = "octavo.commands"
EXIT_INTERRUPTED = 130

# This distribution's own, found without its being installed.
OWN_COMMANDS = {
    "bench": "octavo_client.bench.command:bench",
    "complete": "octavo_client.complete:complete",
}
# A line each, so that listing the commands does not import them.
SUMMARIES = {
    "bench": "Measure a server.",
    "complete": "Complete a prompt.",
    "models": "List the models on this machine.",
    "pull": "Download a model.",
    "serve": "Serve a model over HTTP.",
}
SERVER_COMMANDS = {"models", "pull", "serve"}


class LazyGroup(click.Group):
    """A group that finds further commands as entry points and loads each on first use."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what the server or the user stops ends in one line, not a traceback."""
        try:
            return super().invoke(ctx)
        except APIError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_registered()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; a `click.UsageError` when it is not installed or broken."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        entry_point = _registered().get(cmd_name)
        if entry_point is not None:
            return _load(entry_point)
        if cmd_name in SERVER_COMMANDS:
            raise click.UsageError(
                f"'{cmd_name}' is a command of the server; install octavo-server to have it."
            )
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from names alone where a command is not loaded yet."""
        rows = []
        registered = _registered()
        for name in self.list_commands(ctx):
            if name in self.commands:
                rows.append((name, self.commands[name].get_short_help_str(limit=80)))
            else:
                dist = registered[name].dist
                source = f"Comes from {dist.name}." if dist else ""
                rows.append((name, SUMMARIES.get(name, source)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="octavo-client", prog_name="octavo")
def main() -> None:
    """Octavo, an inference server for language models.

    Each command tells about itself: octavo COMMAND --help.
    """
