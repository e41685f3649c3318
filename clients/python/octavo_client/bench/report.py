"""A benchmark's figures as a table for people and as JSON for programs.

The JSON has the names that `vllm bench serve` gives the same figures in its result files.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from octavo_client.bench.metrics import Distribution, Summary

_TIMES = {"TTFT": "ttft", "TPOT": "tpot", "ITL": "itl", "E2E": "e2e"}
_MAX_REASON = 200


def print_report(console: Console, summary: Summary) -> None:
    """Rates, then a table of times, then what failed."""
    prompt_tokens = "?" if summary.num_prompt_tokens is None else str(summary.num_prompt_tokens)
    total_rate = "?" if summary.total_rate is None else f"{summary.total_rate:.1f}"
    lines = [
        f"requests      {summary.num_completed} completed, {summary.num_failed} failed, "
        f"in {summary.seconds:.2f} s",
        f"tokens        {prompt_tokens} in, {summary.num_output_tokens} out",
        f"request rate  {summary.request_rate:.2f} requests/s",
        f"output        {summary.output_rate:.1f} tok/s",
        f"total         {total_rate} tok/s",
    ]
    for line in lines:
        _print(console, line)
    table = Table("ms", box=box.SIMPLE, header_style="")
    for name in ("mean", "p50", "p90", "p99"):
        table.add_column(name, justify="right")
    for label, name in _TIMES.items():
        values: Distribution | None = getattr(summary, name)
        if values is None:
            table.add_row(label, *4 * ("-",))
        else:
            figures = (values.mean, values.p50, values.p90, values.p99)
            table.add_row(label, *(f"{figure:.2f}" for figure in figures))
    console.print(table)
    if summary.num_short:
        _print(console, f"{summary.num_short} answers have fewer tokens than were asked for")
    if summary.counts_events:
        _print(console, "the server does not count tokens: each event was taken for one")
    for reason, count in summary.failures.items():
        _print(console, f"failed {count} times: {reason[:_MAX_REASON]}")


def json_report(summary: Summary, run: Mapping[str, object]) -> dict[str, object]:
    """Everything in one flat object; `run` says what was measured. Times in milliseconds."""
    report: dict[str, object] = {
        **run,
        "duration": summary.seconds,
        "completed": summary.num_completed,
        "failed": summary.num_failed,
        "failures": summary.failures,
        "total_input_tokens": summary.num_prompt_tokens,
        "total_output_tokens": summary.num_output_tokens,
        "short_answers": summary.num_short,
        "request_throughput": summary.request_rate,
        "output_throughput": summary.output_rate,
        "total_token_throughput": summary.total_rate,
    }
    for label, name in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e")):
        values: Distribution | None = getattr(summary, name)
        for short, field in (("mean", "mean"), ("median", "p50"), ("p90", "p90"), ("p99", "p99")):
            report[f"{short}_{label}_ms"] = None if values is None else getattr(values, field)
    return report


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
