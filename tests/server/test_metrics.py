"""`/metrics`: the names that conventions give, true numbers, and nothing that a client makes up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from raw_http import connect

from engine import (
    STEP_TOKEN_BOUNDS,
    ChoiceOutput,
    EngineDeadError,
    EngineHistory,
    EngineStats,
    Failure,
    Request,
)
from server.observe import engine_counts
from server.observe.metrics import FIRST_TOKEN_BOUNDS, GAP_BOUNDS, LATENCY_BOUNDS
from server.settings import Settings

URL = "/v1/completions"
COMPLETION = {"model": MODEL, "prompt": "abc", "max_tokens": 4}

# Suffixes and types of vLLM's metrics, as its dashboards and routers read them.
GAUGES = {
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "kv_cache_usage_perc",
    "cache_config_info",
}
COUNTERS = {
    "prompt_tokens",
    "prompt_tokens_cached",
    "prompt_tokens_by_source",
    "generation_tokens",
    "request_success",
    "num_preemptions",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "corrupted_requests",
    "admission_rejections",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
    "spec_decode_num_accepted_tokens_per_pos",
}
HISTOGRAMS = {
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_prefill_kv_computed_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_num_preemptions",
    "request_params_max_tokens",
    "request_params_n",
    "iteration_tokens_total",
}


class CountedEngine(FakeEngine):
    """Reports the stats that a test sets, like a real engine."""

    counts = EngineStats(num_blocks_total=100)
    answers = True

    async def stats(self) -> EngineStats:
        if not self.is_ready:
            raise EngineDeadError("it is away")
        if not self.answers:
            await asyncio.Event().wait()
        return self.counts


class Page:
    """What `/metrics` showed at one moment."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(text)
        }

    def value(self, name: str, **labels: str) -> float:
        """Of the one sample `octavo:name` with these labels; 0 without one."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == f"octavo:{name}" and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1
        return found[0] if found else 0.0

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in self.families.values()
            for sample in family.samples
        }


async def page_of(client: httpx.AsyncClient) -> Page:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Page(response.text)


@contextmanager
def no_reuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every reading asks the engine."""
    with monkeypatch.context() as patch:
        patch.setattr(engine_counts, "FRESH_SECONDS", 0.0)
        yield


@pytest.mark.parametrize("compat", ["none", "vllm"])
async def test_names_types_and_labels_are_vllms(compat: str) -> None:
    engine = CountedEngine()
    async with live_app(engine, Settings(metrics_compat=compat)) as client:
        await client.post(URL, json=COMPLETION)
        page = await page_of(client)
    expected = {"gauge": GAUGES, "counter": COUNTERS, "histogram": HISTOGRAMS}
    prefixes = ["octavo", "vllm"] if compat == "vllm" else ["octavo"]
    for prefix in prefixes:
        for kind, names in expected.items():
            for name in names:
                family = page.families[f"{prefix}:{name}"]
                assert family.type == kind
                for sample in family.samples:
                    assert sample.labels["model_name"] == MODEL
                    assert sample.labels["engine"] == "0"
    found = {name.partition(":")[0] for name in page.families if ":" in name}
    assert found == set(prefixes)
    reasons = {s.labels["finished_reason"] for s in page.families["octavo:request_success"].samples}
    assert reasons == {"stop", "length", "abort", "error"}


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("time_to_first_token_seconds", FIRST_TOKEN_BOUNDS),
        ("inter_token_latency_seconds", GAP_BOUNDS),
        ("e2e_request_latency_seconds", LATENCY_BOUNDS),
    ],
)
async def test_histograms_are_whole(name: str, bounds: tuple[float, ...]) -> None:
    async with live_app(FakeEngine()) as client:
        for _ in range(3):
            await client.post(URL, json=COMPLETION)
        page = await page_of(client)
    family = page.families[f"octavo:{name}"]
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in family.samples
        if sample.name.endswith("_bucket")
    ]
    assert [bound for bound, _ in buckets] == [*bounds, float("inf")]
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == page.value(f"{name}_count") == (9 if "inter" in name else 3)
    assert page.value(f"{name}_sum") > 0


async def test_what_requests_did_is_counted() -> None:
    engine = FakeEngine(lambda request, index: list(b"xyz" * 3))
    async with live_app(engine) as client:
        await client.post(URL, json=COMPLETION | {"n": 3, "prompt": ["a", "bc"]})
        await client.post(URL, json=COMPLETION | {"stop": "z", "max_tokens": 9, "stream": True})
        await client.post(URL, json=COMPLETION | {"n": 0})
        await client.post(URL, json=COMPLETION | {"model": "no-such-model"})
        await client.get("/nowhere")
        page = await page_of(client)
    assert page.value("request_success_total", finished_reason="length") == 6
    assert page.value("request_success_total", finished_reason="stop") == 1
    http = {"handler": URL, "method": "POST"}
    assert page.value("http_requests_total", **http, status="200") == 2
    assert page.value("http_requests_total", **http, status="400") == 1
    assert page.value("http_requests_total", **http, status="404") == 1
    assert page.value("http_requests_total", handler="none", status="404") == 1
    assert page.value("request_prompt_tokens_sum") == 9  # each prompt has a token before it
    assert page.value("request_generation_tokens_sum") == 6 * 4 + 3
    assert page.value("request_max_num_generation_tokens_sum") == 4 + 3
    assert page.value("request_prefill_kv_computed_tokens_sum") == 9
    # Three gaps between four tokens of six choices, and two between three.
    assert page.value("inter_token_latency_seconds_count") == 6 * 3 + 2
    assert page.value("e2e_request_latency_seconds_count") == 2


async def test_the_queue_ends_where_the_engine_says() -> None:
    """By the engine's clock, which is ours."""
    engine = FakeEngine(manual=True)
    loop = asyncio.get_running_loop()

    def output(request: Request, **fields: float) -> ChoiceOutput:
        return ChoiceOutput(request.request_id, 0, [65], **fields)  # type: ignore[arg-type]

    async with live_app(engine) as client:
        answer = asyncio.create_task(client.post(URL, json=COMPLETION))
        await engine.until(lambda: bool(engine.requests))
        await asyncio.sleep(0.3)
        started_at = loop.time()  # the clock of time.monotonic()
        await asyncio.sleep(0.1)
        [running] = engine._running
        running.num_sent = 1
        running.stream.put(output(running.request, started_at=started_at))
        await asyncio.sleep(0.2)
        while not engine.is_idle:
            engine.step()
        assert (await answer).status_code == 200
        page = await page_of(client)
    queue = page.value("request_queue_time_seconds_sum")
    prefill = page.value("request_prefill_time_seconds_sum")
    decode = page.value("request_decode_time_seconds_sum")
    inference = page.value("request_inference_time_seconds_sum")
    first = page.value("time_to_first_token_seconds_sum")
    assert queue >= 0.29
    assert prefill >= 0.09
    assert decode >= 0.19
    assert inference == pytest.approx(prefill + decode)
    assert first == pytest.approx(queue + prefill)
    assert first + decode <= page.value("e2e_request_latency_seconds_sum")


async def test_clients_that_go_away_and_engines_that_fail() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine) as client:
        body = b'{"model": "fake-model", "prompt": "x"}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        async with connect(client) as connection:
            connection.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await engine.until(lambda: bool(engine.requests))
        await engine.until(lambda: bool(engine.aborts))

        failing = asyncio.create_task(client.post(URL, json=COMPLETION))
        await engine.until(lambda: len(engine.requests) == 2)
        engine.fail(engine.requests[1], Failure("numerical_error", "no numbers"))
        assert (await failing).status_code == 500

        dying = asyncio.create_task(client.post(URL, json=COMPLETION | {"stream": True}))
        await engine.until(lambda: len(engine.requests) == 3)
        engine.step()
        engine.die()
        assert "error" in (await dying).text
        refused = await client.post(URL, json=COMPLETION)
        assert refused.status_code == 503
        page = await page_of(client)
        stats = (await client.get("/stats")).json()
    assert page.value("requests_aborted_total") == 1
    assert page.value("http_requests_total", status="499") == 1
    assert page.value("request_success_total", finished_reason="abort") == 1
    assert page.value("request_success_total", finished_reason="error") == 2
    assert page.value("corrupted_requests_total") == 1
    assert page.value("admission_rejections_total", reason="model_loading") == 1
    assert page.value("engine_ready") == 0
    assert page.value("request_failures_total", reason="numerical_error") == 1
    assert page.value("request_failures_total", reason="engine_restarting") == 1
    assert stats["requests"]["failed"] == {"numerical_error": 1, "engine_restarting": 1}
    assert stats["requests"]["refused"] == {"model_loading": 1}
    assert page.value("engine_deaths_total") == stats["engine"]["deaths"] == 1
    assert page.value("engine_restarts_total") == stats["engine"]["restarts"] == 0
    assert page.value("e2e_request_latency_seconds_count") == 0
    assert page.value("http_requests_in_flight") == 1  # the one that asks


async def test_totals_go_on_when_the_engine_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CountedEngine()
    with no_reuse(monkeypatch):
        async with live_app(engine) as client:
            engine.counts = EngineStats(
                num_running=3,
                num_blocks_used=25,
                num_blocks_total=100,
                num_generated_tokens=50,
                num_looked_up_tokens=20,
                num_cached_tokens=8,
                num_prompt_tokens=30,
                num_steps=4,
                num_preemptions=2,
                num_drafts=9,
                num_draft_rounds=4,
                num_right_drafts=5,
                right_by_position=(3, 2),
                num_waiting=6,
                num_deferred=2,
                num_started_tokens=28,
                num_failed_steps=1,
                step_tokens=(1, 3, *[0] * (len(STEP_TOKEN_BOUNDS) - 1)),
                num_step_tokens=19,
            )
            page = await page_of(client)
            assert page.value("generation_tokens_total") == 50
            assert page.value("num_requests_running") == 3
            assert page.value("kv_cache_usage_perc") == 0.25
            assert page.value("prefix_cache_queries_total") == 20
            assert page.value("prefix_cache_hits_total") == 8
            assert page.value("prompt_tokens_cached_total") == 8
            assert page.value("prompt_tokens_total") == 30
            assert page.value("engine_steps_total") == 4
            assert page.value("num_preemptions_total") == 2
            assert page.value("spec_decode_num_draft_tokens_total") == 9
            assert page.value("spec_decode_num_accepted_tokens_total") == 5
            assert page.value("spec_decode_num_drafts_total") == 4
            name = "spec_decode_num_accepted_tokens_per_pos_total"
            assert [page.value(name, position=place) for place in "012"] == [3, 2, 0]
            assert page.value("num_requests_waiting") == 6
            name = "num_requests_waiting_by_reason"
            assert page.value(name, reason="capacity") == 4
            assert page.value(name, reason="deferred") == 2
            name = "prompt_tokens_by_source_total"
            assert page.value(name, source="local_compute") == 20
            assert page.value(name, source="local_cache_hit") == 8
            assert page.value("engine_step_failures_total") == 1
            assert page.value("iteration_tokens_total_bucket", le="1.0") == 1
            assert page.value("iteration_tokens_total_bucket", le="8.0") == 4
            assert page.value("iteration_tokens_total_count") == 4
            assert page.value("iteration_tokens_total_sum") == 19
            engine.die()
            page = await page_of(client)
            assert page.value("generation_tokens_total") == 50
            assert page.value("num_requests_running") == 0
            assert page.value("kv_cache_usage_perc") == 0
            engine.is_ready = True
            engine.counts = EngineStats(num_generated_tokens=7, num_blocks_total=100)
            engine.history = EngineHistory(1, 1, 2, 3, num_resubmitted=4)
            page = await page_of(client)
            assert page.value("generation_tokens_total") == 57
            assert page.value("iteration_tokens_total_count") == 4
            assert page.value("engine_deaths_total") == 1
            assert page.value("engine_restarts_total") == 1
            assert page.value("engine_failed_starts_total") == 2
            assert page.value("engine_hangs_total") == 3
            assert page.value("requests_resubmitted_total") == 4


async def test_an_engine_that_hangs_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CountedEngine()
    monkeypatch.setattr(engine_counts, "ANSWER_SECONDS", 0.05)
    with no_reuse(monkeypatch):
        async with live_app(engine) as client:
            engine.counts = EngineStats(num_generated_tokens=5, num_blocks_total=100)
            await page_of(client)
            engine.answers = False
            pages = await asyncio.gather(*(page_of(client) for _ in range(20)))
            assert {page.value("generation_tokens_total") for page in pages} == {5}


async def test_a_client_cannot_make_time_series() -> None:
    async with live_app(FakeEngine(), Settings(model_alias_any=True)) as client:
        headers = {"x-request-id": "made-up-id", "user-agent": "made-up-agent"}

        async def round_trip(name: str) -> None:
            await client.post(URL, json=COMPLETION | {"model": name, "user": name})
            await client.get(f"/v1/models/{name}", headers=headers)
            await client.get(f"/made-up/{name}?made-up=1", headers=headers)
            await client.request("PROPFIND", URL, headers=headers)
            await client.get("/stats")
            await client.get("/metrics")

        await round_trip("made-up-1")
        before = (await page_of(client)).series()
        for number in range(2, 12):
            await round_trip(f"made-up-{number}")
        page = await page_of(client)
        assert page.series() == before
        assert not [series for series in before if "made-up" in str(series)]
        assert page.value("http_requests_total", method="other", status="405") == 11


def test_samples_are_compared_by_label() -> None:
    labels: Mapping[str, str] = {"a": "1"}
    page = Page('octavo:x{a="1",b="2"} 3\n')
    assert page.value("x", **labels) == 3
    assert page.value("x", a="2") == 0
