"""The wire format of `GET /stats`."""

from __future__ import annotations

from pydantic import BaseModel


class EngineState(BaseModel):
    """Gauges of this moment, and totals since the server started. Shares are 0 to 1.

    `deaths` of ready engines, hung ones included; after `restarts` of them another was ready.
    `hangs` counts engines that were ended because they did nothing, loading ones too.
    """

    ready: bool
    deaths: int
    restarts: int
    hangs: int
    running: int
    waiting: int
    kv_cache_usage: float
    preemptions: int
    prefix_cache_hit_rate: float | None
    draft_acceptance_rate: float | None


class RequestState(BaseModel):
    """HTTP requests now; since the start, choices by finish reason, and completions that were
    turned away (429, 503) or failed, by error code."""

    in_flight: int
    finished: dict[str, int]
    aborted: int
    refused: dict[str, int]
    failed: dict[str, int]


class TokenRates(BaseModel):
    """Tokens per second over the last `seconds`; null for a server that has just become busy."""

    seconds: float
    prompt: float
    generation: float


class Latency(BaseModel):
    """Seconds, estimated from a histogram over all requests; null before the first."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class ServerStats(BaseModel):
    """What an operator wants to see at a glance; `/metrics` has the rest."""

    model: str
    uptime_seconds: float
    engine: EngineState
    requests: RequestState
    prompt_tokens: int
    generation_tokens: int
    tokens_per_second: TokenRates | None
    time_to_first_token: Latency
    inter_token_latency: Latency
    request_latency: Latency
    queue_time: Latency
