"""The figures of a benchmark, out of its answers. Arithmetic only.

Definitions, those of `vllm bench serve`; times run from the moment a request is sent:
TTFT to the first event with choices, E2E to the last one, ITL from one such event to the next,
TPOT = (E2E - TTFT) / (output tokens - 1) for answers of several tokens. Percentiles interpolate
linearly. Only whole answers count; rates are over the seconds of the whole run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from octavo_client.bench.answer import Answer


@dataclass(frozen=True)
class Distribution:
    """Of times, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """`failures` counts the failed requests by reason. A distribution of nothing is None.

    `num_prompt_tokens` is None if the server does not count and the prompts were text.
    `num_short` is how many whole answers have fewer tokens than asked for.
    `counts_events` says that some answer came without usage: its events were counted as tokens.
    """

    num_completed: int
    failures: dict[str, int]
    seconds: float
    num_prompt_tokens: int | None
    num_output_tokens: int
    num_short: int
    counts_events: bool
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2e: Distribution | None

    @property
    def num_failed(self) -> int:
        return sum(self.failures.values())

    @property
    def request_rate(self) -> float:
        """Whole answers a second."""
        return self.num_completed / self.seconds

    @property
    def output_rate(self) -> float:
        """Output tokens a second, of all requests together."""
        return self.num_output_tokens / self.seconds

    @property
    def total_rate(self) -> float | None:
        """Prompt and output tokens a second."""
        if self.num_prompt_tokens is None:
            return None
        return (self.num_prompt_tokens + self.num_output_tokens) / self.seconds


def summarize(answers: Sequence[Answer], seconds: float) -> Summary:
    """The figures of a run that took `seconds` > 0."""
    whole = [answer for answer in answers if answer.error is None]
    counts = [_num_output_tokens(answer) for answer in whole]
    prompts = [answer.num_prompt_tokens for answer in whole]
    known = [count for count in prompts if count is not None]
    return Summary(
        num_completed=len(whole),
        failures=dict(Counter(a.error for a in answers if a.error is not None).most_common()),
        seconds=seconds,
        num_prompt_tokens=sum(known) if len(known) == len(prompts) else None,
        num_output_tokens=sum(counts),
        num_short=sum(
            count < answer.max_tokens for count, answer in zip(counts, whole, strict=True)
        ),
        counts_events=any(answer.num_output_tokens is None for answer in whole),
        ttft=distribution([a.arrivals[0] - a.started for a in whole]),
        tpot=distribution(
            [
                (answer.arrivals[-1] - answer.arrivals[0]) / (count - 1)
                for count, answer in zip(counts, whole, strict=True)
                if count > 1
            ]
        ),
        itl=distribution([later - at for a in whole for at, later in pairwise(a.arrivals)]),
        e2e=distribution([a.arrivals[-1] - a.started for a in whole]),
    )


def distribution(seconds: Sequence[float]) -> Distribution | None:
    """Of times in seconds; None if there are none."""
    if not seconds:
        return None
    ordered = sorted(1e3 * value for value in seconds)
    p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
    return Distribution(sum(ordered) / len(ordered), p50, p90, p99)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Between the two values around place `share * (len - 1)` of sorted values, linearly."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _num_output_tokens(answer: Answer) -> int:
    if answer.num_output_tokens is None:
        return len(answer.arrivals)
    return answer.num_output_tokens
