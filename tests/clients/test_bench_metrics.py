"""The figures against examples worked out by hand."""

from __future__ import annotations

import io
import json

import pytest
from octavo_client.bench.answer import Answer
from octavo_client.bench.metrics import Distribution, percentile, summarize
from octavo_client.bench.report import json_report, print_report
from rich.console import Console

# Sent at 10 s: first event after 100 ms, then gaps of 20 and 40 ms; four tokens in three events.
FIRST = Answer(4, 10.0, [10.1, 10.12, 10.16], num_prompt_tokens=5, num_output_tokens=4)
# Sent at 11 s: first after 300 ms, then a gap of 60 ms; the server counts nothing.
SECOND = Answer(3, 11.0, [11.3, 11.36], num_prompt_tokens=7)
BROKEN = Answer(3, 11.0, [11.1], error="it broke")


def approximately(mean: float, p50: float, p90: float, p99: float) -> Distribution:
    return Distribution(
        pytest.approx(mean), pytest.approx(p50), pytest.approx(p90), pytest.approx(p99)
    )


def test_two_answers_and_failures() -> None:
    summary = summarize([FIRST, BROKEN, SECOND, BROKEN], seconds=2.0)
    assert (summary.num_completed, summary.num_failed) == (2, 2)
    assert summary.failures == {"it broke": 2}
    assert (summary.num_prompt_tokens, summary.num_output_tokens) == (12, 6)
    assert summary.num_short == 1
    assert summary.counts_events
    assert summary.request_rate == 1.0
    assert summary.output_rate == 3.0
    assert summary.total_rate == 9.0
    # 100 and 300; 160 and 360; 20, 40 and 60; 60 / 3 and 60 / 1.
    assert summary.ttft == approximately(200, 200, 280, 298)
    assert summary.e2e == approximately(260, 260, 340, 358)
    assert summary.itl == approximately(40, 40, 56, 59.6)
    assert summary.tpot == approximately(40, 40, 56, 59.6)


def test_one_token_has_no_time_between_tokens() -> None:
    summary = summarize([Answer(1, 1.0, [1.5], None, 1)], seconds=1.0)
    assert summary.itl is None
    assert summary.tpot is None
    assert summary.ttft == approximately(500, 500, 500, 500)
    assert summary.num_prompt_tokens is None
    assert summary.total_rate is None


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.99, 5.0), ([1.0, 2.0], 0.5, 1.5), ([0.0, 10.0, 20.0], 0.9, 18.0), ([3, 4], 1, 4)],
)
def test_percentiles_interpolate(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == pytest.approx(expected)


def report_of(*answers: Answer) -> tuple[str, dict[str, object]]:
    summary = summarize(answers, seconds=2.0)
    console = Console(file=io.StringIO(), width=80)
    print_report(console, summary)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    return shown, json.loads(json.dumps(json_report(summary, {"seed": 1}), allow_nan=False))


def test_the_reports_say_what_failed_and_how_tokens_were_counted() -> None:
    shown, report = report_of(FIRST, SECOND, BROKEN)
    assert "2 completed, 1 failed" in shown
    assert "failed 1 times: it broke" in shown
    assert "1 answers have fewer tokens" in shown
    assert "each event was taken for one" in shown
    assert report["seed"] == 1
    assert report["failures"] == {"it broke": 1}
    assert report["output_throughput"] == 3.0
    assert report["median_ttft_ms"] == pytest.approx(200)
    assert report["p99_e2el_ms"] == pytest.approx(358)


def test_nothing_but_failures() -> None:
    shown, report = report_of(BROKEN)
    assert "0 completed, 1 failed" in shown
    assert report["mean_ttft_ms"] is None
    assert report["output_throughput"] == 0
