"""Help in named groups: options of a command, commands of a group. Knows nothing of either.

What has no group comes last, under click's own headings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class GroupedOption(click.Option):
    """An option that stands under the heading `group` in its command's help."""

    def __init__(self, *args: Any, group: str = "", **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help has its options under their headings, in the order of declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if row is not None:
                groups.setdefault(getattr(param, "group", ""), []).append(row)
        rest = groups.pop("", [])
        for heading, rows in [*groups.items(), ("Options", rest)]:
            write_section(formatter, heading, rows)


def write_section(
    formatter: click.HelpFormatter, heading: str, rows: Sequence[tuple[str, str]]
) -> None:
    """A heading and what stands below it; nothing if there is nothing."""
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows)
