"""One server through all scenarios of a round. Whatever it does, the samples say so.

A server that dies, refuses or answers wrongly has an error in its sample, is started afresh for
the next scenario, and keeps nobody else from being measured.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from comparison.measure import (
    IdleConnections,
    MeasureError,
    is_answering,
    measure_intrusion,
    measure_load,
    served_model,
    target_at,
)
from comparison.processes import ServerError, ServerProcess, running
from comparison.results import Sample
from comparison.scenarios import Intrusion, Load, Scenario, Start, shape
from comparison.servers import Contender, Shape
from octavo_client.bench.load import Target

POLL_SECONDS = 0.02
SLOW_START = 30.0
FLOOR_TIMEOUT = 1800.0

Record = Callable[[Sample], None]


@dataclass(frozen=True)
class Served:
    """A server that has answered; `seconds` is how long that took from its start."""

    process: ServerProcess
    base_url: str
    target: Target
    seconds: float


@contextmanager
def served(contender: Contender, needed: Shape, log: Path) -> Iterator[Served]:
    """The server, once it has answered a request. Raises ServerError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = contender.command(needed, port)
    with running(command, contender.environment, contender.folder, log) as process:
        base_url = f"http://127.0.0.1:{port}/v1"
        model = None
        while True:
            try:
                model = model or served_model(base_url)
                if is_answering(base_url, model):
                    break
            except MeasureError:
                pass  # not yet
            if not process.is_alive:
                raise ServerError(f"it ended with {process.exit_code}; see {log}")
            if time.perf_counter() - process.started > contender.start_timeout:
                raise ServerError(f"no answer within {contender.start_timeout:g} s; see {log}")
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - process.started
        yield Served(process, base_url, target_at(base_url, model), seconds)


class Session:
    """`contender` in round `round_number`; `record` gets each sample as it comes."""

    def __init__(self, contender: Contender, round_number: int, logs: Path, record: Record) -> None:
        self._contender = contender
        self._round = round_number
        self._log = logs / f"{contender.name.replace(' ', '-')}.log"
        self._record = record
        self._stack = ExitStack()
        self._command: list[str] | None = None
        self._served: Served | None = None

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """All of them, one after the other; the server is not running afterwards."""
        with self._stack:
            for scenario in scenarios:
                try:
                    self._run(scenario)
                except (ServerError, MeasureError) as error:
                    died = self._served is not None and self._served.process.has_ended(2.0)
                    reason = f"{error} (the server has ended)" if died else str(error)
                    self._add(scenario.scenario, scenario.case, error=reason)
                    self._stop()

    def _run(self, scenario: Scenario) -> None:
        name, case = scenario.scenario, scenario.case
        if not self._contender.serves:
            if isinstance(scenario, Load) and name == "decode":
                self._add(name, case, measure_floor(self._contender, scenario))
        elif isinstance(scenario, Start):
            self._measure_starts(scenario)
        elif isinstance(scenario, Intrusion):
            target = self._target(scenario.shape)
            self._add(name, case, measure_intrusion(target, scenario, self._round))
        else:
            self._add(name, case, measure_load(self._target(scenario.shape), scenario, self._round))

    def _target(self, needed: Shape) -> Target:
        """Of the server that runs, if it suits `needed` as it is; else of one started afresh."""
        command = self._contender.command(needed, 0)
        if self._served is None or command != self._command:
            self._stop()
            self._served = self._stack.enter_context(served(self._contender, needed, self._log))
            self._command = command
            num_streams = min(16, needed.streams)
            output_len = min(16, needed.tokens - 128)
            warmup = Load("warm-up", 0, num_streams, 128, output_len, num_streams)
            measure_load(self._served.target, warmup, self._round)
        return self._served.target

    def _stop(self) -> None:
        self._served = None
        self._stack.close()

    def _measure_starts(self, scenario: Start) -> None:
        self._stop()
        for number in range(scenario.starts):
            with served(self._contender, scenario.shape, self._log) as server:
                figures = {"start_seconds": server.seconds}
                is_last = number + 1 == scenario.starts or server.seconds > SLOW_START
                if not is_last:
                    self._add("start", 0, figures)
                    continue
                figures |= _megabytes("loaded", server.process)
                measure_load(server.target, scenario.load, self._round)
                figures |= _megabytes("used", server.process)
                self._add("start", 0, figures)
                self._measure_connections(server, scenario.num_connections)
                return

    def _measure_connections(self, server: Served, count: int) -> None:
        with IdleConnections(server.base_url) as connections:
            before, _ = server.process.memory_bytes()
            try:
                connections.open(count)
            except MeasureError as error:
                self._add("connections", count, error=str(error))
                return
            after, _ = server.process.memory_bytes()
        self._add("connections", count, {"more_mb": (after - before) / 1e6})

    def _add(
        self,
        scenario: str,
        case: int,
        figures: dict[str, float] | None = None,
        error: str | None = None,
    ) -> None:
        self._record(
            Sample(self._contender.name, scenario, case, self._round, figures or {}, error)
        )


def _megabytes(when: str, process: ServerProcess) -> dict[str, float]:
    proportional, resident = process.memory_bytes()
    return {f"{when}_mb": proportional / 1e6, f"{when}_rss_mb": resident / 1e6}


def measure_floor(contender: Contender, load: Load) -> dict[str, float]:
    """`floor.py` with the load's numbers. Its tokens a second are those of one whole batch.

    Raises ServerError.
    """
    command = contender.command(shape(load.streams, 0), 0)
    for option in ("streams", "input_len", "output_len"):
        command += [f"--{option.replace('_', '-')}", str(getattr(load, option))]
    # Its standard output is the answer, so it is not a ServerProcess.
    process = subprocess.Popen(
        command,
        env={**os.environ, **contender.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=FLOOR_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ServerError(f"not finished within {FLOOR_TIMEOUT:g} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise ServerError(f"it ended with {process.returncode}: {err.strip()[-200:]}")
    times = json.loads(out)
    return {
        "output_rate": load.streams * load.output_len / times["seconds"],
        "ttft_p50": 1e3 * times["first_seconds"],
        "ttft_p99": 1e3 * times["first_seconds"],
    }
