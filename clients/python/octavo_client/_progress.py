"""The progress bar of `create_many`, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[bool], None]]:
    """A bar over `total` prompts, as long as the block lasts; call what it yields for each one,
    with whether it failed."""
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

        def report(has_failed: bool) -> None:
            nonlocal num_failed
            num_failed += has_failed
            failures = f"{num_failed} failed" if num_failed else ""
            progress.update(bar, advance=1, failures=failures)

        yield report
