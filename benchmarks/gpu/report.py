"""What a part found, on the screen and as JSON: tables, targets, and figures by engine and case.

Every change is written at once, so that a run that is broken off keeps what it had. Figures that
other parts left in the same folder are read for the ratios.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

# The engines that Octavo is compared with, as figures name them.
PEERS = ("transformers", "transformers tuned", "vllm")

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: `engine` in `case`. `note` says what is special about it."""

    engine: str
    case: str
    values: dict[str, float]
    note: str = ""


@dataclass
class Target:
    """What was asked for, and whether it was reached. None: it could not be told here."""

    text: str
    measured: str
    reached: bool | None


@dataclass
class _Content:
    part: str
    environment: dict[str, str]
    notes: list[str] = field(default_factory=list)
    tables: list[dict[str, object]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


class Report:
    """The report of one part, in `folder / f"{part}.json"`."""

    def __init__(self, part: str, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = folder / f"{part}.json"
        self._content = _Content(part, environment)
        print(f"== {part}")
        for name, value in environment.items():
            print(f"   {name}: {value}", flush=True)
        self._write()

    def note(self, text: str) -> None:
        print(f"   {text}", flush=True)
        self._content.notes.append(text)
        self._write()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        print(f"\n{title}")
        print(format_table(columns, rows), flush=True)
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        self._content.tables.append(table)
        self._write()

    def figure(self, figure: Figure) -> None:
        self._content.figures.append(figure)
        self._write()

    def target(self, text: str, measured: str, reached: bool | None) -> None:
        verdict = {True: "reached", False: "MISSED", None: "open"}[reached]
        print(f"target: {text}: {measured}: {verdict}", flush=True)
        self._content.targets.append(Target(text, measured, reached))
        self._write()

    def rate_of(self, engine: str, case: str) -> float | None:
        """Output tokens a second, as any part that wrote to this folder measured them; the median
        where there are several rounds. Figures with a note are not compared."""
        figures = [f for f in read_figures(self._folder) if not f.note]
        rates = [f.values["output_rate"] for f in figures if (f.engine, f.case) == (engine, case)]
        return median(rates) if rates else None

    def _write(self) -> None:
        self._file.write_text(json.dumps(asdict(self._content), indent=1))


def read_figures(folder: Path) -> list[Figure]:
    """All figures of the parts that wrote to `folder`."""
    contents = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return [Figure(**figure) for content in contents for figure in content.get("figures", [])]


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Columns as wide as they need; the first one to the left, the others to the right."""
    texts = [list(columns), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    lines = []
    for row in texts:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def ratio(value: float | None, base: float | None) -> float | None:
    """None where one of them was not measured."""
    return None if value is None or not base else value / base


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return str(cell)
