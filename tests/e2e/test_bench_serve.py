"""`octavo bench serve` as a process of its own, against the real application on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"


async def bench(client: httpx.AsyncClient, *options: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    command = [sys.executable, "-m", "octavo_client", "bench", "serve", *options]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "PYTHONPATH": str(CLIENT), "OCTAVO_BASE_URL": str(client.base_url)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


LENGTHS = ["--input-len", "8", "--output-len", "5", "--vocab-size", "200"]
SMALL = [*LENGTHS, "--num-prompts", "6", "--seed", "1"]


async def test_random_prompts(tmp_path: Path) -> None:
    engine = FakeEngine()
    path = tmp_path / "figures.json"
    async with live_app(engine) as client:
        code, out, err = await bench(
            client, *SMALL, "--max-concurrency", "2", "--num-warmups", "1", "--json", str(path)
        )
    assert (code, err) == (0, "")
    assert "6 completed, 0 failed" in out
    assert [len(request.prompt_token_ids) for request in engine.requests] == [8] * 7
    assert {request.sampling.max_tokens for request in engine.requests} == {5}
    assert {request.sampling.stop_token_ids for request in engine.requests} == {()}
    figures: dict[str, Any] = json.loads(path.read_text())
    assert (figures["model_id"], figures["seed"], figures["max_concurrency"]) == (MODEL, 1, 2)
    assert (figures["completed"], figures["failed"]) == (6, 0)
    assert (figures["total_input_tokens"], figures["total_output_tokens"]) == (48, 30)
    assert figures["output_throughput"] * figures["duration"] == pytest.approx(30)
    assert 0 < figures["median_ttft_ms"] <= figures["p99_ttft_ms"] <= figures["p99_e2el_ms"]


async def test_a_shared_prefix_at_a_rate() -> None:
    engine = FakeEngine()
    async with live_app(engine) as client:
        code, out, _ = await bench(
            client, *SMALL, "--dataset", "shared-prefix", "--prefix-len", "16",
            "--request-rate", "200",
        )  # fmt: skip
    assert code == 0
    assert "6 completed" in out
    prompts = [request.prompt_token_ids for request in engine.requests]
    assert len({tuple(prompt[:16]) for prompt in prompts}) == 1
    assert len({tuple(prompt) for prompt in prompts}) == 7  # one of them warmed up
    assert {len(prompt) for prompt in prompts} == {24}


async def test_text(tmp_path: Path) -> None:
    engine = FakeEngine()
    path = tmp_path / "book.txt"
    path.write_text("one two three four")
    async with live_app(engine) as client:
        options = ["--dataset", "text", "--file", str(path), *SMALL, "--input-len", "2"]
        code, _, _ = await bench(client, *options)
    assert code == 0
    # A text may end where the model ends it.
    assert all(request.sampling.stop_token_ids for request in engine.requests)


async def test_failures_are_counted_and_end_with_one() -> None:
    def script(request: Any, index: int) -> list[int]:
        return [65] * 100 if request.prompt_token_ids[0] % 2 else [65, 66]

    engine = FakeEngine(script)
    async with live_app(engine) as client:
        code, out, _ = await bench(client, *SMALL, "--num-warmups", "0")
        assert code == 0
        num_short = sum(request.prompt_token_ids[0] % 2 == 0 for request in engine.requests)
        assert f"{num_short} answers have fewer tokens" in out
        code, out, _ = await bench(client, *SMALL, "--vocab-size", "100000")
        assert code == 1
        assert "0 completed, 6 failed" in out
        assert "HTTP 400" in out
        engine.die()
        code, out, _ = await bench(client, *SMALL)
        assert code == 1
        assert "failed 6 times: HTTP 503" in out


async def test_what_cannot_be_measured() -> None:
    async with live_app(FakeEngine()) as client:
        for options, exit_code, words in [
            (["--dataset", "text"], 2, "--file"),
            (["--dataset", "text", "--file", "/nonexistent"], 1, "cannot read /nonexistent"),
            (["--request-rate", "0"], 2, "0"),
            (["--url", "http://127.0.0.1:1"], 1, "no answer from"),
        ]:
            code, out, err = await bench(client, *options)
            assert (code, out) == (exit_code, "")
            assert words in err
            assert "Traceback" not in err
