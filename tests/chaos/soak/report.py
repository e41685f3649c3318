"""What a part of the soak comes to, in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chaos.soak.looks import Growth, Look

WARM_UP = 0.3  # share of the requests after which memory is looked at for the first time
FEW = 200  # tokens, of which the share says nothing


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

    def take_waste(self, num_generated: float, num_wanted: int, given_up: dict[str, int]) -> None:
        """Of the tokens that were generated, how many somebody got; and how many more would have
        been generated if the engine had not been told what was given up, by what it was given up
        for. Raises AssertionError.

        The engine is some steps ahead when it is told. Were it never told of one kind, all the
        tokens of that kind would be generated.
        """
        num_wasted = num_generated - num_wanted
        assert 0 <= num_wasted <= sum(given_up.values()), (num_wasted, given_up)
        for kind, num_tokens in given_up.items():
            what = f"{num_wasted} tokens for nobody, {num_tokens} {kind}"
            assert num_wasted < max(num_tokens, FEW), what
        self.waste = num_wasted / sum(given_up.values())

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
