"""What observing costs: the program runs, and the server it compares with observes nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fake_engine import FakeEngine
from live_app import MODEL, new_app, serving
from observed_server import Unwatched

from server.observe.watch import Watch

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])


def quick(case: str) -> dict[str, list[str]]:
    """Runs it; the rows of its table by server."""
    result = subprocess.run(
        [sys.executable, "benchmarks/observability.py", "--quick", "--cases", case],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    header, *rows, verdict = result.stdout.splitlines()
    assert header.split()[:4] == ["case", "server", "streams", "tok/s"]
    assert verdict.rpartition(" ")[2] in ("met", "missed")
    return {row.split()[1]: row.split() for row in rows}


def check(rows: dict[str, list[str]], case: str) -> None:
    assert set(rows) == {"bare", "observed"}
    for row in rows.values():
        assert row[0] == case
        assert float(row[3]) > 0
    bare, observed = float(rows["bare"][3]), float(rows["observed"][3])
    lost = float(rows["observed"][5].rstrip("%")) / 100
    rounding = 0.06 * (bare + observed) / bare**2 + 1e-4  # rates are shown to a tenth
    assert lost == pytest.approx(1 - observed / bare, abs=rounding)


def test_a_quick_run() -> None:
    check(quick("paced"), "paced")


@pytest.mark.slow
def test_a_quick_run_with_the_model(builtin_model: Path) -> None:
    check(quick("model"), "model")


async def answers(new_watch: type[Watch]) -> tuple[str, str, httpx.Response]:
    """The texts of an answer and a stream, and what /metrics shows then."""
    app = new_app(FakeEngine(), new_watch=new_watch)
    body = {"model": MODEL, "prompt": "x", "max_tokens": 5}
    async with serving(app, 60.0) as client:
        whole = await client.post("/v1/completions", json=body)
        stream = await client.post("/v1/completions", json=body | {"stream": True})
        assert (await client.post("/v1/completions", json=body | {"n": 0})).status_code == 400
        page = await client.get("/metrics")
    assert stream.text.endswith("data: [DONE]\n\n")
    return whole.json()["choices"][0]["text"], str(stream.text.count('"text"')), page


def own_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.name for record in caplog.records if record.name.startswith("octavo")]


async def test_nothing_is_seen_without_observers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    *bare, empty = await answers(Unwatched)
    assert not own_lines(caplog)
    *observed, page = await answers(Watch)
    assert own_lines(caplog) == ["octavo.request"] * 3
    assert bare == observed
    assert 'status="200"} 2.0' in page.text
    assert 'status="200"' not in empty.text
