"""The page that Prometheus reads: every count, in its text format, under `octavo:`.

The names after the prefix, the types, the labels `model_name` and `engine` and the buckets are
vLLM's, so that what was written for it needs no more than the other prefix
(`--metrics-compat vllm` shows the page's metrics under `vllm:` too). Of names only those of this
server's own model and routes are values of labels: a client cannot make new time series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from engine import STEP_TOKEN_BOUNDS, Engine, EngineHistory, EngineStats
from server.observe.engine_counts import EngineCounts
from server.observe.histogram import Histogram
from server.observe.metrics import RequestMetrics
from server.observe.text_format import MetricFamilies

PREFIX = "octavo"

_HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request's arrival to its first token.",
    "inter_token_latency_seconds": "Between two tokens of a choice, each token counted.",
    "request_time_per_output_token_seconds": "Mean time between the tokens of a request.",
    "e2e_request_latency_seconds": "From a request's arrival to the end of its answer.",
    "request_queue_time_seconds": "From a request's arrival to its first step.",
    "request_inference_time_seconds": "From a request's first step to its last token.",
    "request_prefill_time_seconds": "From a request's first step to its first token.",
    "request_decode_time_seconds": "From a request's first token to its last.",
    "request_prompt_tokens": "Prompt tokens of a request.",
    "request_prefill_kv_computed_tokens": "Prompt tokens of a request that were not in the cache.",
    "request_generation_tokens": "Generated tokens of a request.",
    "request_max_num_generation_tokens": "Generated tokens of a request's longest choice.",
    "request_num_preemptions": "How often choices of a request were put back to wait for memory.",
    "request_params_max_tokens": "The parameter max_tokens of a request.",
    "request_params_n": "Choices generated of each prompt of a request.",
}


class MetricsPage:
    """Made for each scrape. `prefixes` are one or more; `model` is the model's own name."""

    def __init__(
        self,
        engine: Engine,
        counts: EngineCounts,
        metrics: RequestMetrics,
        model: str,
        prefixes: Sequence[str],
    ) -> None:
        self._engine = engine
        self._counts = counts
        self._metrics = metrics
        self._pages = [_Page(prefix, model) for prefix in prefixes]
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    async def text(self) -> bytes:
        """The whole page. Waits for the engine at most as long as `EngineCounts.read` does."""
        stats = await self._counts.read()
        families: list[str] = []
        for page in self._pages:
            families += page.of_engine(self._engine, stats)
            families += page.of_history(self._counts.history)
            families += page.of_requests(self._metrics)
        return "".join(families).encode() + generate_latest(self._process)


class _Page:
    """Metrics of one prefix, all with the labels of this server's one model and engine."""

    def __init__(self, prefix: str, model: str) -> None:
        self._families = MetricFamilies(prefix, {"model_name": model, "engine": "0"})

    def of_engine(self, engine: Engine, stats: EngineStats) -> Iterator[str]:
        usage = stats.num_blocks_used / max(stats.num_blocks_total, 1)
        yield self._gauge("num_requests_running", "Choices that run.", stats.num_running)
        yield self._gauge("num_requests_waiting", "Choices that wait.", stats.num_waiting)
        yield self._families.gauge(
            "num_requests_waiting_by_reason",
            "Choices that wait, for room or for another one to compute their prompt.",
            {
                ("capacity",): stats.num_waiting - stats.num_deferred,
                ("deferred",): stats.num_deferred,
            },
            "reason",
        )
        yield self._gauge("kv_cache_usage_perc", "KV cache in use, 0 to 1.", usage)
        yield self._gauge("engine_ready", "1 if the engine takes requests.", engine.is_ready)
        for name, documentation, total in (
            ("engine_steps", "Steps of the engine.", stats.num_steps),
            ("engine_step_failures", "Steps that failed.", stats.num_failed_steps),
            ("prompt_tokens", "Prompt tokens, cached ones included.", stats.num_prompt_tokens),
            ("prompt_tokens_cached", "Prompt tokens in the cache.", stats.num_cached_tokens),
            ("generation_tokens", "Tokens generated.", stats.num_generated_tokens),
            ("num_preemptions", "Choices put back to wait for memory.", stats.num_preemptions),
            ("prefix_cache_queries", "Prompt tokens looked up.", stats.num_looked_up_tokens),
            ("prefix_cache_hits", "Prompt tokens found.", stats.num_cached_tokens),
            ("spec_decode_num_drafts", "Rounds of guessing.", stats.num_draft_rounds),
            ("spec_decode_num_draft_tokens", "Tokens guessed.", stats.num_drafts),
            ("spec_decode_num_accepted_tokens", "Guesses kept.", stats.num_right_drafts),
        ):
            yield self._counter(name, documentation, total)
        yield self._families.counter(
            "prompt_tokens_by_source",
            "Prompt tokens that were begun with: computed here, or found in the cache.",
            {
                ("local_compute",): stats.num_started_tokens - stats.num_cached_tokens,
                ("local_cache_hit",): stats.num_cached_tokens,
            },
            "source",
        )
        yield self._families.counter(
            "spec_decode_num_accepted_tokens_per_pos",
            "Guesses kept, by their place in a round.",
            {(str(place),): count for place, count in enumerate(stats.right_by_position)},
            "position",
        )
        yield self._families.histogram(
            "iteration_tokens_total",
            "Tokens computed in a step.",
            Histogram.of(STEP_TOKEN_BOUNDS, stats.step_tokens, stats.num_step_tokens),
        )
        if stats.num_blocks_total:  # else the engine has not been up yet
            info = engine.info
            yield self._families.gauge(
                "cache_config_info",
                "The shape of the KV cache.",
                {(str(info.block_size), str(info.num_blocks)): 1},
                "block_size",
                "num_gpu_blocks",
            )

    def of_history(self, history: EngineHistory) -> Iterator[str]:
        for name, documentation, total in (
            ("engine_deaths", "Times a ready engine went away unasked.", history.num_deaths),
            ("engine_restarts", "Times it was ready again.", history.num_restarts),
            ("engine_failed_starts", "Restarts that failed.", history.num_failed_starts),
            ("engine_hangs", "Engines ended because they did nothing.", history.num_hangs),
            (
                "requests_resubmitted",
                "Requests handed to another engine without the client noticing.",
                history.num_resubmitted,
            ),
        ):
            yield self._counter(name, documentation, total)

    def of_requests(self, metrics: RequestMetrics) -> Iterator[str]:
        yield self._gauge(
            "http_requests_in_flight", "HTTP requests being answered.", metrics.num_in_flight
        )
        yield self._families.counter(
            "request_success",
            "Choices that ended, by reason; abort and error are not answers.",
            {(reason,): count for reason, count in metrics.choices.items()},
            "finished_reason",
        )
        yield self._counter(
            "requests_aborted", "Requests whose client went away.", metrics.num_aborted
        )
        yield self._counter(
            "corrupted_requests",
            "Requests for which the model produced no numbers.",
            metrics.num_corrupted,
        )
        yield self._families.counter(
            "admission_rejections",
            "Requests turned away with 429 or 503, by error code.",
            {(code,): count for code, count in metrics.refusals.items()},
            "reason",
        )
        yield self._families.counter(
            "request_failures",
            "Requests that failed, other than by a 503, by error code.",
            {(code,): count for code, count in metrics.failures.items()},
            "reason",
        )
        yield self._families.counter(
            "http_requests", "HTTP requests.", metrics.http_requests, "handler", "method", "status"
        )
        for name, documentation in _HISTOGRAMS.items():
            yield self._families.histogram(name, documentation, getattr(metrics, name))

    def _gauge(self, name: str, documentation: str, value: float) -> str:
        return self._families.gauge(name, documentation, {(): value})

    def _counter(self, name: str, documentation: str, value: float) -> str:
        return self._families.counter(name, documentation, {(): value})
