"""Counts and histograms over all requests since the start, fed once for each.

The names of the histograms are the suffixes of vLLM's metrics, and so are the buckets.
"""

from __future__ import annotations

from collections import Counter

from server.observe.histogram import Histogram
from server.observe.record import CLIENT_CLOSED_REQUEST, CompletionRecord, RequestRecord

FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
# The first four are ours: a small model is faster than vLLM's lowest bound.
GAP_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.0075),
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
LATENCY_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKEN_BOUNDS = tuple(m * 10**e for e in range(6) for m in (1.0, 2.0, 5.0))
CHOICE_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0)
# 0 is ours: most requests are never put back.
PREEMPTION_BOUNDS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)

_REFUSED_STATUSES = (429, 503)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """What `/metrics` and `/stats` show of the requests.

    `http_requests` is by (route or "none", method, status); `choices` by finish reason;
    `refusals` and `failures` by error code. None of these can have a value that a client made up.
    """

    def __init__(self) -> None:
        self.num_in_flight = 0
        self.http_requests: Counter[tuple[str, ...]] = Counter()
        self.choices: Counter[str] = Counter(dict.fromkeys(("stop", "length", "abort", "error"), 0))
        self.refusals: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.num_aborted = 0
        self.num_corrupted = 0
        self.time_to_first_token_seconds = Histogram(FIRST_TOKEN_BOUNDS)
        self.inter_token_latency_seconds = Histogram(GAP_BOUNDS)
        self.request_time_per_output_token_seconds = Histogram(GAP_BOUNDS)
        self.e2e_request_latency_seconds = Histogram(LATENCY_BOUNDS)
        self.request_queue_time_seconds = Histogram(LATENCY_BOUNDS)
        self.request_inference_time_seconds = Histogram(LATENCY_BOUNDS)
        self.request_prefill_time_seconds = Histogram(LATENCY_BOUNDS)
        self.request_decode_time_seconds = Histogram(LATENCY_BOUNDS)
        self.request_prompt_tokens = Histogram(TOKEN_BOUNDS)
        self.request_prefill_kv_computed_tokens = Histogram(TOKEN_BOUNDS)
        self.request_generation_tokens = Histogram(TOKEN_BOUNDS)
        self.request_max_num_generation_tokens = Histogram(TOKEN_BOUNDS)
        self.request_num_preemptions = Histogram(PREEMPTION_BOUNDS)
        self.request_params_max_tokens = Histogram(TOKEN_BOUNDS)
        self.request_params_n = Histogram(CHOICE_BOUNDS)

    def begun(self) -> None:
        self.num_in_flight += 1

    def ended(self, record: RequestRecord) -> None:
        self.num_in_flight -= 1
        method = record.method if record.method in _METHODS else "other"
        self.http_requests[record.route or "none", method, str(record.status)] += 1
        if not record.is_completion:
            return
        self.num_aborted += record.status == CLIENT_CLOSED_REQUEST
        self.num_corrupted += record.error_code == "numerical_error"
        if record.status in _REFUSED_STATUSES:
            self.refusals[record.error_code or "none"] += 1
        elif record.outcome == "failed":
            self.failures[record.error_code or "none"] += 1
        completion = record.completion
        if completion is not None and completion.finish_reasons:
            self._count(record, completion)

    def _count(self, record: RequestRecord, completion: CompletionRecord) -> None:
        """A completion that went to the engine, whatever became of it."""
        self.choices.update(completion.finish_reasons)
        self.request_prompt_tokens.observe(completion.num_prompt_tokens)
        self.request_prefill_kv_computed_tokens.observe(
            completion.num_prompt_tokens - completion.num_cached_tokens
        )
        self.request_generation_tokens.observe(completion.num_generated_tokens)
        self.request_max_num_generation_tokens.observe(completion.num_longest)
        self.request_num_preemptions.observe(completion.num_preemptions)
        self.request_params_n.observe(completion.n)
        max_tokens = completion.parameters.get("max_tokens")
        if isinstance(max_tokens, int):
            self.request_params_max_tokens.observe(max_tokens)
        queued, first = record.queue_seconds, record.first_token_seconds
        if queued is not None:
            self.request_queue_time_seconds.observe(queued)
        if first is not None:
            self.time_to_first_token_seconds.observe(first)
        if record.status == CLIENT_CLOSED_REQUEST or record.error_type is not None:
            return  # how long it took until somebody gave up says nothing of the server
        self.e2e_request_latency_seconds.observe(record.seconds)
        start, last = completion.started_at, completion.last_token_at
        if start is not None and last is not None and completion.first_token_at is not None:
            self.request_inference_time_seconds.observe(last - start)
            self.request_prefill_time_seconds.observe(completion.first_token_at - start)
            self.request_decode_time_seconds.observe(last - completion.first_token_at)
        if completion.mean_gap is not None:
            self.request_time_per_output_token_seconds.observe(completion.mean_gap)
