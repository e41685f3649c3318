"""Results as Markdown: a table for each scenario, with medians, ranges and ratios.

Writes no figure that is not in the results. A figure is followed by its range in parentheses where
that is wider than a tenth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comparison.results import MACHINE, Results, Spread

FAILED = "failed"


@dataclass(frozen=True)
class Column:
    """A figure under a heading, with so many decimals."""

    heading: str
    figure: str
    decimals: int = 0


@dataclass(frozen=True)
class TableForm:
    """One table for each case. `main` is the figure that ratios are of; with `lower_wins` the
    ratio is the peer's over the server's, so that more is better everywhere."""

    scenario: str
    title: str
    columns: Sequence[Column]
    main: str | None = None
    lower_wins: bool = False


RATES = (
    Column("output tok/s", "output_rate"),
    Column("TTFT p50", "ttft_p50"),
    Column("TTFT p99", "ttft_p99"),
    Column("ITL p50", "itl_p50", 1),
    Column("ITL p99", "itl_p99", 1),
)
CONTEXT = (
    Column("TTFT", "ttft_p50"),
    Column("TPOT", "tpot_p50", 1),
    Column("ITL p99", "itl_p99", 1),
)
TABLES = (
    TableForm("decode", "decode, 128 in and 128 out, {case} at a time", RATES, "output_rate"),
    TableForm(
        "prefix",
        "shared prefix, 1,024 common and 32 own tokens in, 16 out, {case} at a time",
        RATES,
        "output_rate",
    ),
    TableForm(
        "intrusion",
        "a long prompt among {case} decoding streams: their ITL while it is computed",
        (
            Column("ITL p50", "itl_p50", 1),
            Column("ITL p99", "itl_p99", 1),
            Column("ITL max", "itl_max"),
            Column("ITL p50 else", "quiet_itl_p50", 1),
            Column("TTFT of the long prompt", "intruder_ttft"),
        ),
        "itl_p99",
        lower_wins=True,
    ),
    TableForm(
        "start",
        "start and memory",
        (
            Column("s to the first answer", "start_seconds", 2),
            Column("MB, loaded", "loaded_mb"),
            Column("MB, after decoding", "used_mb"),
            Column("MB, RSS summed", "used_rss_mb"),
        ),
        "start_seconds",
        lower_wins=True,
    ),
    TableForm("connections", "{case} idle connections", (Column("MB more", "more_mb", 1),)),
    TableForm("context", "one stream, {case} tokens of context", CONTEXT, "tpot_p50", True),
    TableForm("streams", "growth, 128 in and 128 out, {case} at a time", RATES, "output_rate"),
)
LIMITS = (
    Column("memory, GB/s", "memory_gb_s", 1),
    Column("of 92 MB", "memory_92mb_gb_s", 1),
    Column("int8, GOP/s", "int8_gops"),
    Column("bf16, GFLOP/s", "bf16_gflops"),
    Column("fp32, GFLOP/s", "fp32_gflops"),
)


def heading(results: Results) -> str:
    """What was measured where, under a heading of its own."""
    run = results.run
    rounds = 1 + max((sample.round for sample in results.samples), default=-1)
    lines = [
        f"## Side by side, {run.date}",
        "",
        f"- commit: {run.commit}",
        f"- machine: {run.machine}; load average {run.load_average:.1f} at the start",
        f"- command: `{run.command}`",
        f"- rounds: {rounds}, the servers one after another in each; medians, with the range where "
        "it is wider than a tenth",
        *(f"- **{name}**: {about}" for name, about in run.servers.items()),
        *(f"- not measured: {line}" for line in run.missing),
    ]
    return "\n".join([*lines, ""])


def tables(results: Results) -> str:
    """All tables, one below the other. Times in milliseconds unless the heading says otherwise."""
    blocks = [_limits_table(results)]
    for form in TABLES:
        blocks += [_table(results, form, case) for case in results.cases(form.scenario)]
    return "\n".join(block for block in blocks if block)


def _table(results: Results, form: TableForm, case: int) -> str:
    best = None
    if form.main is not None:
        best = results.best_peer(form.scenario, case, form.main, min if form.lower_wins else max)
    headings = ["server", *(column.heading for column in form.columns)]
    if best is not None:
        headings.append("to the best peer")
    rows = []
    for server in results.servers():
        cells = _cells(results, server, form.scenario, case, form.columns)
        if cells is None:
            continue
        if best is not None and form.main is not None:
            cells.append(_ratio(results.spread(server, form.scenario, case, form.main), best, form))
        rows.append([server, *cells])
    notes = [
        f"{server}: {FAILED}, {_cell_text(error)}"
        for server in results.servers()
        for error in dict.fromkeys(results.errors(server, form.scenario, case))
    ]
    title = form.title.replace("{case}", f"{case:,}")
    return _markdown(title, headings, rows, notes)


def _cells(
    results: Results, server: str, scenario: str, case: int, columns: Sequence[Column]
) -> list[str] | None:
    """None if the server has no samples of this kind at all."""
    spreads = [results.spread(server, scenario, case, column.figure) for column in columns]
    errors = results.errors(server, scenario, case)
    if not errors and not any(spreads):
        return None
    cells = [number(s, c.decimals) for s, c in zip(spreads, columns, strict=True)]
    if errors:
        cells[0] = f"{cells[0]}, {FAILED} {len(errors)} times" if spreads[0] else FAILED
    return cells


def number(spread: Spread | None, decimals: int) -> str:
    """`412` or `412 (380 to 430)`; a dash for nothing."""
    if spread is None:
        return "-"
    text = f"{spread.median:,.{decimals}f}"
    if spread.is_wide:
        text += f" ({spread.low:,.{decimals}f} to {spread.high:,.{decimals}f})"
    return text


def _ratio(spread: Spread | None, best: tuple[str, float], form: TableForm) -> str:
    if spread is None:
        return "-"
    own, peer = spread.median, best[1]
    over, under = (peer, own) if form.lower_wins else (own, peer)
    return f"{over / under:.2f}" if under else "-"


def _limits_table(results: Results) -> str:
    cells = _cells(results, MACHINE, "limits", 0, LIMITS)
    errors = results.errors(MACHINE, "limits", 0)
    if cells is None:
        return ""
    notes = [f"not measured: {_cell_text(error)}" for error in dict.fromkeys(errors)]
    title = "the machine's limits, all cores"
    return _markdown(title, [column.heading for column in LIMITS], [cells], notes)


def _markdown(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    if not rows:
        return ""
    lines = [
        f"### {title[0].upper()}{title[1:]}",
        "",
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
    ]
    return "\n".join(lines)


def _cell_text(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]
