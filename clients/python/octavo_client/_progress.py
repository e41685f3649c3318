"""The progress bar of `create_many`, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from octavo_client._many import CompletionResult, Report


@contextmanager
def progress_bar(total: int) -> Iterator[Report]:
    """A bar over `total` prompts, as long as the block lasts; call what it yields for each one."""
    num_failed = 0
    columns = (
        TextColumn("completing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failures]}", style="red"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=total, failures="")

        def report(result: CompletionResult) -> None:
            nonlocal num_failed
            num_failed += result.error is not None
            failures = f"{num_failed} failed" if num_failed else ""
            progress.update(bar, advance=1, failures=failures)

        yield report
