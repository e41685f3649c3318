"""Requests and tokens a minute, over the wire and by a clock that is set by hand."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server.rate_limits import RateLimits, duration
from server.settings import Settings
from server.tenants import Tenant
from server.wire.errors import ApiError

URL = "/v1/completions"
BODY = {"model": MODEL, "prompt": [1, 2], "max_tokens": 4}
TENANT = Tenant("a", True)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def is_limited(response: httpx.Response, unit: str) -> bool:
    if response.status_code != 429:
        return False
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert f"{unit} per minute" in error["message"]
    return True


async def test_requests_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-a name=a rpm=2\nsk-b name=b\nsk-c rpm=0\n")
    engine = FakeEngine()
    settings = Settings(api_key_file=file, requests_per_minute=1)
    async with live_app(engine, settings) as client:

        async def post(key: str) -> httpx.Response:
            return await client.post(URL, json=BODY, headers={"Authorization": f"Bearer {key}"})

        for left in (1, 0):
            response = await post("sk-a")
            assert response.status_code == 200
            assert response.headers["x-ratelimit-limit-requests"] == "2"
            assert response.headers["x-ratelimit-remaining-requests"] == str(left)
            assert response.headers["x-ratelimit-reset-requests"]
            assert "x-ratelimit-limit-tokens" not in response.headers
        response = await post("sk-a")
        assert is_limited(response, "requests")
        assert 1 <= int(response.headers["retry-after"]) <= 30
        assert 1 <= int(response.headers["retry-after-ms"]) <= 30_000
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await post("sk-b")).status_code == 200
        assert is_limited(await post("sk-b"), "requests")  # the server's default
        for _ in range(5):
            response = await post("sk-c")
            assert response.status_code == 200
            assert not [name for name in response.headers if name.startswith("x-ratelimit")]
    assert len(engine.requests) == 2 + 1 + 5


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_an_address(stream: bool) -> None:
    engine = FakeEngine()
    async with live_app(engine, Settings(tokens_per_minute=20)) as client:
        response = await client.post(URL, json=BODY | {"stream": stream})
        assert response.headers["x-ratelimit-limit-tokens"] == "20"
        assert (await client.post(URL, json=BODY | {"n": 3})).status_code == 200
        response = await client.post(URL, json=BODY | {"n": 2})
        assert is_limited(response, "tokens")
        assert response.headers["retry-after"]
        response = await client.post(URL, json=BODY | {"n": 5})
        assert is_limited(response, "tokens")  # never, so there is no use in trying again
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers


async def test_what_was_not_used_is_put_back() -> None:
    engine = FakeEngine(lambda request, index: [5])
    async with live_app(engine, Settings(tokens_per_minute=100)) as client:
        for _ in range(5):  # 2 + 1 tokens each, of 2 + 80
            response = await client.post(URL, json=BODY | {"max_tokens": 80})
            assert response.status_code == 200
        assert is_limited(await client.post(URL, json=BODY | {"max_tokens": 97}), "tokens")


async def test_a_prompt_that_is_longer_than_it_looked() -> None:
    """Tokens are at least characters over the longest token's length; then they are counted."""
    engine = FakeEngine()
    async with live_app(engine, Settings(tokens_per_minute=1000)) as client:
        body = BODY | {"prompt": "x" * 900, "max_tokens": 0}
        assert (await client.post(URL, json=body)).status_code == 200
        assert is_limited(await client.post(URL, json=body), "tokens")
    assert len(engine.requests) == 1


async def test_a_prompt_that_turns_out_to_be_too_long_for_ever() -> None:
    """It is told so, and not to try again; and what was turned away counts for no limit."""
    settings = Settings(tokens_per_minute=1000, requests_per_minute=2)
    async with live_app(FakeEngine(), settings) as client:
        for _ in range(4):
            body = BODY | {"prompt": "x" * 1100, "max_tokens": 0}
            response = await client.post(URL, json=body)
            assert is_limited(response, "tokens")
            assert "1101 tokens, which is over the limit" in response.json()["error"]["message"]
            assert response.headers["x-should-retry"] == "false"
            assert "retry-after" not in response.headers
        assert (await client.post(URL, json=BODY)).status_code == 200


def test_a_bucket_fills_up_again() -> None:
    clock = Clock()
    allowance = RateLimits(60, 600, clock).of(TENANT)
    allowance.take(600, num_requests=60)
    with pytest.raises(ApiError):
        allowance.check(1)
    headers = allowance.headers()
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"] == "1m0s"
    clock.now = 1.0
    allowance.check(10)
    with pytest.raises(ApiError) as caught:
        allowance.check(12)
    assert "Try again in 200ms." in caught.value.message
    assert (caught.value.headers or {})["retry-after-ms"] == "200"
    assert (caught.value.headers or {})["Retry-After"] == "1"
    clock.now = 1000.0
    assert allowance.headers()["x-ratelimit-remaining-requests"] == "60"
    with pytest.raises(ApiError):
        allowance.check(601)


def test_who_waits_as_long_as_told_is_let_in() -> None:
    """Also where the sum of what came in falls short by a rounding error."""
    rng = random.Random(0)  # noqa: S311 - to be repeated
    for _ in range(3000):
        clock = Clock()
        clock.now = rng.uniform(0, 1e6)
        limit = 60 * rng.randint(1, 1000)  # so that the waits are whole milliseconds
        allowance = RateLimits(None, limit, clock).of(TENANT)
        allowance.take(limit)
        wanted = rng.randint(1, limit)
        with pytest.raises(ApiError) as caught:
            allowance.check(wanted, num_requests=0)
        assert caught.value.headers is not None
        clock.now += int(caught.value.headers["retry-after-ms"]) / 1000
        allowance.check(wanted, num_requests=0)


def test_an_overdrawn_bucket_needs_longer() -> None:
    clock = Clock()
    allowance = RateLimits(None, 60, clock).of(TENANT)
    allowance.take(120)
    clock.now = 60.0
    with pytest.raises(ApiError):
        allowance.check(1)
    assert allowance.headers()["x-ratelimit-remaining-tokens"] == "0"
    clock.now = 61.0
    allowance.check(1)


def test_who_used_nothing_lately_is_forgotten() -> None:
    clock = Clock()
    limits = RateLimits(10, None, clock)
    for number in range(5000):
        limits.of(Tenant(str(number))).take(0, num_requests=1)
        clock.now += 1.0
    assert len(limits._allowances) <= 2048
    limits.of(TENANT).take(0, num_requests=10)
    for number in range(3000):
        limits.of(Tenant(f"x{number}"))
    with pytest.raises(ApiError):
        limits.of(TENANT).check(0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0201, "21ms"), (1.5, "1.5s"), (60, "1m0s"), (361.25, "6m1.25s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
