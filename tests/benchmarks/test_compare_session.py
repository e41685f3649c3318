"""Servers as real processes, through the scenarios: figures or reasons; nothing is left running."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from comparison.measure import IdleConnections, MeasureError, intrusion_figures
from comparison.processes import ServerError, descendants, is_running, running
from comparison.results import Sample
from comparison.scenarios import Intrusion, Load, Scenario, Start
from comparison.servers import Contender, Shape, find_peers, parse_octavo
from comparison.session import Session, served
from octavo_client.bench.answer import Answer

SERVER = Path(__file__).with_name("completions_server.py")
SMALL = Load("decode", 2, 2, 8, 4, 4)
LONG = Load("decode", 3, 2, 150, 4, 2)
INTRUSION = Intrusion(2, 8, 200, 50)
START = Start(2, SMALL, 20)


def contender(*options: str) -> Contender:
    command = (sys.executable, str(SERVER), "{port}", *options)
    return Contender("fake", "a fake", command, start_timeout=30.0)


def run(who: Contender, logs: Path, *scenarios: Scenario) -> list[Sample]:
    samples: list[Sample] = []
    Session(who, 0, logs, samples.append).run(scenarios)
    return samples


def test_all_scenarios(tmp_path: Path) -> None:
    decode, intrusion, first, last, idle = run(contender(), tmp_path, SMALL, INTRUSION, START)
    assert (decode.error, decode.case, decode.figures["output_rate"] > 0) == (None, 2, True)
    assert intrusion.error is None
    assert intrusion.figures["itl_p50"] <= intrusion.figures["itl_p99"]
    assert set(first.figures) == {"start_seconds"}
    assert 1 < last.figures["loaded_mb"] <= last.figures["loaded_rss_mb"] < 1000
    assert (idle.scenario, idle.case, idle.error) == ("connections", 20, None)


def test_a_server_that_answers_too_little(tmp_path: Path) -> None:
    (sample,) = run(contender("--short"), tmp_path, SMALL)
    assert not sample.figures
    assert "tokens instead of" in (sample.error or "")


def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    before, crashed, after = run(contender("--die"), tmp_path, SMALL, LONG, SMALL)
    assert (before.error, after.error) == (None, None)
    assert "a request failed" in (crashed.error or "")
    assert "the server has ended" in (crashed.error or "")


@pytest.mark.parametrize("command", [("/nonexistent",), (sys.executable, "-c", "exit(3)")])
def test_a_server_that_does_not_start(command: tuple[str, ...], tmp_path: Path) -> None:
    (sample,) = run(Contender("fake", "", command), tmp_path, SMALL)
    assert sample.error is not None
    assert "cannot start /nonexistent" in sample.error or "ended with 3" in sample.error


def test_children_in_sessions_of_their_own_end_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    who = contender("--orphan", str(note))
    with pytest.raises(KeyboardInterrupt), served(who, Shape(1, 256), tmp_path / "log"):
        child = int(note.read_text())
        assert child in descendants(os.getpid())
        raise KeyboardInterrupt
    assert not is_running(child)


def test_connections_that_are_refused() -> None:
    refused = pytest.raises(MeasureError, match="only 0 of 3")
    with IdleConnections("http://127.0.0.1:1/v1") as connections, refused:
        connections.open(3)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    missing = running(["/nonexistent"], {}, tmp_path, tmp_path / "log")
    with pytest.raises(ServerError, match="cannot start"), missing:
        pass


def answer(started: float, *arrivals: float) -> Answer:
    return Answer(len(arrivals), started, list(arrivals))


def test_only_times_that_the_intruder_touches_count() -> None:
    intruder = answer(1.0, 2.0, 2.1)
    stream = answer(0.0, 0.5, 0.9, 1.5, 1.9, 2.2, 2.3)
    figures = intrusion_figures([stream], intruder)
    # 0.9 to 1.5, 1.5 to 1.9 and 1.9 to 2.2 touch the second from 1.0 to 2.0.
    assert figures["itl_p50"] == pytest.approx(400)
    assert figures["itl_max"] == pytest.approx(600)
    assert figures["quiet_itl_p50"] == pytest.approx(250)
    assert figures["intruder_ttft"] == pytest.approx(1000)
    with pytest.raises(MeasureError, match="ended before"):
        intrusion_figures([answer(0.0, 0.5, 1.5)], intruder)


def test_commands_get_what_the_scenario_needs(tmp_path: Path) -> None:
    peers, missing = find_peers(tmp_path, 2)
    assert not peers
    assert [line.partition(":")[0] for line in missing] == [
        "llama.cpp Q4_1",
        "llama.cpp Q8_0",
        "llama.cpp bf16",
        "vLLM bf16",
        "transformers bf16",
    ]
    for path in ("build/bin/llama-server", "smol/q8_0.gguf"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    ((llama,), _) = find_peers(tmp_path, 2)
    command = llama.command(Shape(32, 512), 81)
    assert command[3:] == ["-np", "32", "-c", "16384", "-t", "2", "--host", "127.0.0.1",
                           "--port", "81"]  # fmt: skip


def test_variants_of_octavo() -> None:
    variant = parse_octavo("int8: --quantization int8")
    assert variant.name == "Octavo int8"
    assert variant.command(Shape(1, 256), 81)[-4:] == ["--port", "81", "--quantization", "int8"]
    assert not variant.is_peer
    for text in ("no options", ": --dtype float32"):
        with pytest.raises(ValueError, match="is not"):
            parse_octavo(text)
