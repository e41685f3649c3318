"""What a comparison brings: one sample for each measurement, kept in a JSON file.

A sample says who, what and in which round, and has either figures or the reason why there are
none. Medians and ratios are made of it later, by the report. Knows no server and no scenario.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

# The name under which the machine's own limits stand among the samples.
MACHINE = "machine"


@dataclass(frozen=True)
class Sample:
    """`case` is a number of the scenario's own kind (streams, or tokens of context), else 0."""

    server: str
    scenario: str
    case: int
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Spread:
    """The median of several samples and their range."""

    median: float
    low: float
    high: float
    count: int

    @property
    def is_wide(self) -> bool:
        """Whether the range is wider than a tenth of the median."""
        return self.high - self.low > 0.1 * abs(self.median)


@dataclass(frozen=True)
class Run:
    """Where and how it was measured; all text, for people. `servers` has name and what it is."""

    date: str
    commit: str
    machine: str
    command: str
    load_average: float
    servers: dict[str, str]
    missing: list[str]


@dataclass(frozen=True)
class ModelSize:
    """What a step of the model costs at least follows from these, which are in its file.

    `num_parameters` are those that a decoded token is multiplied with, `output_parameters` the
    part of them that makes logits. `quantized_bytes` is the size of the file.
    """

    num_parameters: int
    output_parameters: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    quantized_bytes: int


@dataclass
class Results:
    """Of one run. `is_peer` has the names of the servers that Octavo is measured against."""

    run: Run
    model: ModelSize | None
    peers: list[str]
    samples: list[Sample] = field(default_factory=list)

    def servers(self) -> list[str]:
        """Those with samples, in the order of the run."""
        return [name for name in self.run.servers if any(s.server == name for s in self.samples)]

    def cases(self, scenario: str) -> list[int]:
        return sorted({s.case for s in self.samples if s.scenario == scenario})

    def spread(self, server: str, scenario: str, case: int, figure: str) -> Spread | None:
        """Over all rounds; None if no sample has this figure."""
        samples = self._of(server, scenario, case)
        values = [sample.figures[figure] for sample in samples if figure in sample.figures]
        if not values:
            return None
        return Spread(median(values), min(values), max(values), len(values))

    def errors(self, server: str, scenario: str, case: int) -> list[str]:
        return [s.error for s in self._of(server, scenario, case) if s.error is not None]

    def best_peer(
        self, scenario: str, case: int, figure: str, choose: Callable[..., str] = max
    ) -> tuple[str, float] | None:
        """The peer with the highest median (`choose=min`: lowest), and that median."""
        medians = {
            peer: spread.median
            for peer in self.peers
            if (spread := self.spread(peer, scenario, case, figure)) is not None
        }
        if not medians:
            return None
        name = choose(medians, key=lambda peer: medians[peer])
        return name, medians[name]

    def _of(self, server: str, scenario: str, case: int) -> list[Sample]:
        return [
            s for s in self.samples if (s.server, s.scenario, s.case) == (server, scenario, case)
        ]

    def save(self, path: Path) -> None:
        """All at once: a run that is broken off leaves what it had."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.part")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        beside.replace(path)


def load_results(path: Path) -> Results:
    """What `save` has written. Raises OSError, or ValueError for a file of another shape."""
    data = json.loads(path.read_text(encoding="utf-8"))
    try:
        return Results(
            run=Run(**data["run"]),
            model=None if data["model"] is None else ModelSize(**data["model"]),
            peers=list(data["peers"]),
            samples=[Sample(**sample) for sample in data["samples"]],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of benchmarks/compare.py: {error}") from error
