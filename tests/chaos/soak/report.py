"""What a part of the soak comes to, in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chaos.soak.looks import Growth, Look

WARM_UP = 0.3  # share of the requests after which memory is looked at for the first time

MOST_WASTE = 0.5


@dataclass
class Report:
    """`endings` counts what became of requests and of their choices. `waste` is the share of the
    tokens given up that were generated all the same."""

    name: str
    num_requests: int
    endings: Counter[str]
    seconds: float = 0.0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    num_right_drafts: int = 0
    waste: float = 0.0
    growth: list[Growth] = field(default_factory=list)

    def take_waste(self, num_generated: float, num_wanted: int, num_full: int) -> None:
        """Of tokens that were generated, those that somebody got, and those that would have been if
        nobody had given up. Raises AssertionError.

        The engine is some steps ahead when it is told that a client is gone, or a text complete.
        Were it not told, almost all of `num_full` would be generated.
        """
        assert num_wanted <= num_generated <= num_full, (num_wanted, num_generated, num_full)
        self.waste = (num_generated - num_wanted) / max(num_full - num_wanted, 1)
        assert self.waste < MOST_WASTE, f"{self.waste:.0%} of what was given up was generated"

    def take_looks(
        self, names: list[str], before: list[Look], after: list[Look], num_requests: int
    ) -> None:
        """At the processes called so. Raises AssertionError if they kept something."""
        for name, first, last in zip(names, before, after, strict=True):
            growth = Growth(name, first, last, num_requests)
            growth.check()
            self.growth.append(growth)

    def __str__(self) -> str:
        endings = ", ".join(f"{count} {name}" for name, count in self.endings.most_common())
        return (
            f"{self.name}: {self.num_requests} requests in {self.seconds:.0f} s, all as they "
            f"should be ({endings}; {self.num_preemptions} preemptions, {self.num_right_drafts} "
            f"right guesses, {self.num_cached_tokens} cached tokens, {self.waste:.0%} of what was "
            f"given up generated). In the last "
            f"{1 - WARM_UP:.0%} of the time: {'; '.join(map(str, self.growth))}."
        )
