"""How long an answer took, for `--stats`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from octavo_client._types import Completion, Usage


@dataclass
class Stopwatch:
    """When the answer began and ended, in seconds since the request; tokens as the server says."""

    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    ended: float = 0.0
    usage: Usage | None = None

    def see(self, part: Completion) -> None:
        """Take note of an answer or of a chunk that has just come."""
        self.ended = time.perf_counter() - self.started
        if part.choices and self.first is None:
            self.first = self.ended
        self.usage = part.usage or self.usage

    def report(self, is_stream: bool) -> str:
        parts = []
        if is_stream and self.first is not None:
            parts.append(f"first token after {self.first:.3f} s")
        total = f"{self.ended:.3f} s in all"
        if self.usage is not None:
            num_tokens = self.usage.completion_tokens
            parts.append(f"{self.usage.prompt_tokens} tokens in, {num_tokens} out")
            if is_stream and self.first is not None and num_tokens > 1:
                rate = (num_tokens - 1) / max(self.ended - self.first, 1e-9)
                total += f", {rate:.1f} tok/s after the first"
            else:
                total += f", {num_tokens / max(self.ended, 1e-9):.1f} tok/s"
        return "; ".join([*parts, total])
