"""What the operator sees while the server comes up: progress, then one summary when it is ready.

A bar and colours on a terminal, plain lines elsewhere. Decides nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from engine import EngineInfo
from server.standard_streams import tell


class StartupProgress:
    """Shows phases of the start. `update` may be called from any thread."""

    def __init__(self, console: Console) -> None:
        self._is_drawn = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self._is_drawn,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away. May be called again."""
        self._progress.stop()

    def update(self, phase: str, fraction: float) -> None:
        """`phase` in words, and the share of it that is done, 0 to 1."""
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=1.0)
            if not self._is_drawn:
                tell(phase)
        self._progress.update(self._tasks[phase], completed=fraction)


def banner(
    model: str,
    origin: str,
    info: EngineInfo,
    url: str,
    *,
    needs_key: bool,
    notes: Sequence[str] = (),
) -> str:
    """The summary: what runs and where it came from, how, where, and a command to try it. `notes`:
    lines on the model."""
    num_tokens = info.num_blocks * info.block_size
    key = ' -H "Authorization: Bearer $OCTAVO_API_KEY"' if needs_key else ""
    body = json.dumps({"model": model, "prompt": "The sea is", "max_tokens": 32})
    return "\n".join(
        (
            "",
            f"  Octavo serves {model}",
            f"  model     {info.architecture}, {info.num_parameters / 1e6:,.0f} M parameters, "
            f"context {info.max_model_len:,} tokens",
            f"  from      {origin}",
            *(f"  {note}" for note in notes),
            f"  running   {info.device}, {info.dtype}, {info.kernels} kernels, "
            f"loaded in {info.load_seconds:.1f} s",
            f"  KV cache  {info.num_blocks:,} pages of {info.block_size} tokens "
            f"({num_tokens:,} tokens), up to {info.max_num_seqs} sequences at a time",
            f"  API       {url}/v1   (description: {url}/docs)",
            "",
            f"  curl {url}/v1/completions{key} -H 'Content-Type: application/json' "
            f"-d {shlex.quote(body)}",
            "",
            "Ready.",
        )
    )
