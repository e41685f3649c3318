"""All that watches the server, put together once, and the pages that show it."""

from __future__ import annotations

import time
from dataclasses import asdict

from engine import Engine
from server.observe.engine_counts import EngineCounts
from server.observe.exposition import PREFIX, MetricsPage
from server.observe.histogram import Histogram
from server.observe.load import LoadWatch, ratio
from server.observe.metrics import RequestMetrics
from server.observe.observer import Observer, Subscriber
from server.observe.request_log import RequestLog
from server.observe.tracing import open_tracing
from server.settings import Settings, wants_traces
from server.wire.stats import EngineState, Latency, RequestState, ServerStats, TokenRates


class Watch:
    """`observer` is told of each request, `page` is what Prometheus reads."""

    def __init__(self, engine: Engine, settings: Settings, model: str) -> None:
        """`model` is the model's own name."""
        self._engine = engine
        self._model = model
        self._begun_at = time.monotonic()
        self._metrics = RequestMetrics()
        self._counts = EngineCounts(engine)
        self._load = LoadWatch(self._counts, self._metrics)
        self._tracing = open_tracing(wants_traces())
        subscribers: list[Subscriber] = [RequestLog()]
        if self._tracing is not None:
            subscribers.insert(0, self._tracing)  # gives the log its trace ids
        self.observer = Observer(
            self._metrics, self._load, subscribers, keeps_prompts=settings.log_prompts
        )
        prefixes = [PREFIX] if settings.metrics_compat == "none" else [PREFIX, "vllm"]
        self.page = MetricsPage(engine, self._counts, self._metrics, model, prefixes)

    async def stats(self) -> ServerStats:
        """What `GET /stats` answers. Waits for the engine as long as `EngineCounts.read` does."""
        rates = await self._load.rates()
        counts, metrics = await self._counts.read(), self._metrics
        history = self._counts.history
        return ServerStats(
            model=self._model,
            uptime_seconds=time.monotonic() - self._begun_at,
            engine=EngineState(
                ready=self._engine.is_ready,
                deaths=history.num_deaths,
                restarts=history.num_restarts,
                hangs=history.num_hangs,
                running=counts.num_running,
                waiting=counts.num_waiting,
                kv_cache_usage=ratio(counts.num_blocks_used, counts.num_blocks_total) or 0.0,
                preemptions=counts.num_preemptions,
                prefix_cache_hit_rate=ratio(counts.num_cached_tokens, counts.num_looked_up_tokens),
                draft_acceptance_rate=ratio(counts.num_right_drafts, counts.num_drafts),
            ),
            requests=RequestState(
                in_flight=metrics.num_in_flight,
                finished=dict(metrics.choices),
                aborted=metrics.num_aborted,
                refused=dict(metrics.refusals),
                failed=dict(metrics.failures),
            ),
            prompt_tokens=counts.num_prompt_tokens,
            generation_tokens=counts.num_generated_tokens,
            tokens_per_second=None if rates is None else TokenRates(**asdict(rates)),
            time_to_first_token=_latency(metrics.time_to_first_token_seconds),
            inter_token_latency=_latency(metrics.inter_token_latency_seconds),
            request_latency=_latency(metrics.e2e_request_latency_seconds),
            queue_time=_latency(metrics.request_queue_time_seconds),
        )

    def close(self) -> None:
        """Send what has not been sent. May take a few seconds."""
        if self._tracing is not None:
            self._tracing.close()


def _latency(histogram: Histogram) -> Latency:
    return Latency(
        mean=ratio(histogram.sum, histogram.num_values),
        p50=histogram.quantile(0.5),
        p95=histogram.quantile(0.95),
        p99=histogram.quantile(0.99),
    )
