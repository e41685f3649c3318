"""What clients saw, against what the server counted: its log's lines, and the page of metrics.

Each completion has one line in the log, so the lines say what clients that vanished cannot. Every
total must be that of the lines, and every line that of the answer, if somebody read it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chaos.soak.report import Report

Page = dict[str, float]  # samples by name and labels, as they are written

_COMPLETIONS = "/v1/completions"
_UNDER_WAY = {
    "http_requests_in_flight": 1,
    "num_requests_running": 0,
    "num_requests_waiting": 0,
    "kv_cache_usage_perc": 0,
}
_LABELS = 'engine="0",model_name="soak-model"'


@dataclass
class Seen:
    """One request, as its client saw it. `status` is None if the client did not wait for it.

    `line` is what the log must say of it, None where it says nothing. `full_tokens` would have been
    generated for it if nobody had stopped that, and `reasons` tell how its choices ended, if known.
    """

    route: str
    method: str
    status: int | None
    line: dict[str, Any] | None = None
    reasons: list[str] = field(default_factory=list)
    num_choices: int = 0
    full_tokens: int = 0


class Ledger:
    """Requests by their ids."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    def add(self, request_id: str, seen: Seen) -> None:
        assert request_id not in self.seen
        self.seen[request_id] = seen

    def check(self, log: str, page: Page, report: Report) -> None:
        """Raises AssertionError. `report` is told how much was generated for nobody."""
        events = [json.loads(line) for line in log.splitlines()]
        problems = [event for event in events if event["level"] not in ("debug", "info")]
        assert not problems, f"{len(problems)} lines of the log tell of problems: {problems[0]}"
        lines: dict[str, dict[str, Any]] = {}
        for event in events:
            if event["event"].startswith("request_"):
                request_id = event["request_id"]
                assert request_id not in lines, f"two lines in the log for one request: {event}"
                lines[request_id] = event
        self._check_lines(lines)
        self._check_rest(page)
        self._check_requests(lines, page)
        served = [line for line in lines.values() if line["finish_reason"]]
        self._check_totals(served, page, report)

    def _check_lines(self, lines: dict[str, dict[str, Any]]) -> None:
        unknown = Counter(
            line["status"] for request_id, line in lines.items() if request_id not in self.seen
        )
        nameless = Counter(
            seen.status
            for seen in self.seen.values()
            if seen.line and seen.line["request_id"] is None
        )
        assert unknown == nameless, f"lines for requests that nobody sent: {unknown} {nameless}"
        for request_id, seen in self.seen.items():
            line = lines.get(request_id)
            if seen.status is None or (seen.line and seen.line["request_id"] is None):
                continue
            if seen.line is None:
                assert line is None, f"a line for what is not logged: {line}"
                continue
            assert line is not None, f"no line in the log for {request_id}: {seen}"
            said = {name: line[name] for name in seen.line}
            assert said == seen.line, f"the log says of {request_id} {said}, right is {seen.line}"

    def _check_rest(self, page: Page) -> None:
        """Nothing is counted as being under way but the one who asked for the page."""
        under_way = {name: page[f"octavo:{name}{{{_LABELS}}}"] for name in _UNDER_WAY}
        assert under_way == _UNDER_WAY, under_way

    def _check_requests(self, lines: dict[str, dict[str, Any]], page: Page) -> None:
        """Every request was counted once, as what it was."""
        counted = Counter(
            {labels: int(value) for labels, value in _by_labels(page, "http_requests").items()}
        )
        expected: Counter[str] = Counter()
        for request_id, seen in self.seen.items():
            status = seen.status
            if status is None:
                if request_id not in lines:
                    continue  # it never came whole
                status = lines[request_id]["status"]
            expected[f'handler="{seen.route}",method="{seen.method}",status="{status}"'] += 1
        assert counted == expected, (
            f"requests: {counted - expected} more, {expected - counted} less"
        )
        statuses = [line for line in lines.values() if line["route"] == _COMPLETIONS]
        aborted = sum(line["status"] == 499 for line in statuses)
        assert total(page, "requests_aborted") == aborted
        refused = Counter(
            f'reason="{line["error_code"]}"' for line in statuses if line["status"] in (429, 503)
        )
        assert _by_labels(page, "admission_rejections") == refused
        failed = Counter(
            f'reason="{line["error_code"]}"'
            for line in statuses
            if line["event"] == "request_failed"
        )
        assert _by_labels(page, "request_failures") == failed

    def _check_totals(self, lines: list[dict[str, Any]], page: Page, report: Report) -> None:
        """`lines` of requests that came to the engine."""
        num_prompt = sum(line["prompt_tokens"] for line in lines)
        num_generated = sum(line["completion_tokens"] for line in lines)
        for name, sum_of_lines in (
            ("request_prompt_tokens", num_prompt),
            ("request_generation_tokens", num_generated),
        ):
            assert page[f"octavo:{name}_sum{{{_LABELS}}}"] == sum_of_lines, name
            assert page[f"octavo:{name}_count{{{_LABELS}}}"] == len(lines), name
        assert total(page, "prompt_tokens") == num_prompt, "prompt tokens of the engine"
        given_up = {"vanished": 0, "stopped": 0}
        sure_reasons, num_unsure = Counter[str](), 0
        for line in lines:
            seen = self.seen[line["request_id"]]
            kind = "vanished" if seen.status is None else "stopped"
            given_up[kind] += seen.full_tokens - line["completion_tokens"]
            sure_reasons.update(seen.reasons)
            num_unsure += seen.num_choices - len(seen.reasons)
        report.take_waste(total(page, "generation_tokens"), num_generated, given_up)
        counted = Counter(
            {
                labels.partition('"')[2][:-1]: int(value)
                for labels, value in _by_labels(page, "request_success").items()
            }
        )
        assert counted.total() == sure_reasons.total() + num_unsure, (counted, sure_reasons)
        assert counted >= sure_reasons, f"choices ended by {counted}, seen were {sure_reasons}"


def parse_page(text: str) -> Page:
    """The samples of a page of metrics; none comes twice."""
    samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    page = {name: float(value) for name, _, value in samples}
    assert len(page) == len(samples), "a sample came twice"
    return page


def check_goes_on(before: Page, after: Page) -> None:
    """No total went back."""
    for name, value in before.items():
        if name.partition("{")[0].endswith(("_total", "_count", "_sum", "_bucket")):
            assert after.get(name, -1) >= value, f"{name} went from {value} to {after.get(name)}"


def total(page: Page, name: str) -> float:
    return page[f"octavo:{name}_total{{{_LABELS}}}"]


def _by_labels(page: Page, name: str) -> dict[str, float]:
    """By the labels that are not the same for all."""
    begin = f"octavo:{name}_total{{"
    rows = {}
    for sample, value in page.items():
        if sample.startswith(begin):
            labels = sample.removeprefix(begin).removesuffix("}").split(",")
            rows[",".join(sorted(set(labels) - set(_LABELS.split(","))))] = value
    return rows
