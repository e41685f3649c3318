"""The plots of growth: what was measured, and what the machine and the model allow at best.

A limit is arithmetic on measured figures. A decoding step reads all weights once and the keys and
values of every stream; a token costs two operations for each weight, and four for each number of
its queries and each position that it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from comparison.results import MACHINE, ModelSize, Results
from comparison.svg import Line, line_plot

KV_BYTES = 2  # bfloat16
INPUT_LEN = OUTPUT_LEN = 128  # of the scenario `streams`


@dataclass(frozen=True)
class Limits:
    """Bytes and operations a second. None where it has no such instructions."""

    memory: float | None
    int8: float | None
    bf16: float | None


def machine_limits(results: Results) -> Limits:
    def of(figure: str) -> float | None:
        # The best round: what the machine could do, whatever else it did in the others.
        spread = results.spread(MACHINE, "limits", 0, figure)
        return None if spread is None else 1e9 * spread.high

    return Limits(of("memory_gb_s"), of("int8_gops"), of("bf16_gflops"))


def step_bytes(model: ModelSize, weight_bytes: float, streams: int, context: float) -> float:
    """What a decoding step has to read."""
    kv = 2 * model.num_layers * model.num_kv_heads * model.head_dim * KV_BYTES
    return weight_bytes + streams * context * kv


def token_ops(model: ModelSize, context: float) -> float:
    """Operations for a token whose `context` is so long."""
    attention = 4 * model.num_layers * model.num_heads * model.head_dim * context
    return 2 * model.num_parameters + attention


def prompt_ops(model: ModelSize, tokens: int) -> float:
    """Operations for a prompt: each token sees half of the others on average, and only the last
    one needs the output layer."""
    return tokens * (token_ops(model, tokens / 2) - 2 * model.output_parameters) + (
        2 * model.output_parameters
    )


def growth_plots(results: Results) -> dict[str, str]:
    """SVG text by file name; without a plot for what was not measured."""
    plots = {}
    if len(results.cases("context")) > 1:
        label = "tokens of context"
        plots["decoding-by-context.svg"] = line_plot(
            "One stream's speed by tokens of context", label, "output tok/s while decoding",
            [*_measured(results, "context", _decoding_rate), *_context_rate_limits(results)],
        )  # fmt: skip
        plots["ttft-by-context.svg"] = line_plot(
            "Time to the first token by tokens of context", label, "TTFT, ms",
            [*_measured(results, "context", _ttft), *_context_ttft_limits(results)],
        )  # fmt: skip
    if len(results.cases("streams")) > 1:
        label = "streams, 128 tokens in and 128 out"
        plots["rate-by-streams.svg"] = line_plot(
            "Speed of all streams together", label, "output tok/s, prompts included",
            [*_measured(results, "streams", _output_rate), *_streams_rate_limits(results)],
        )  # fmt: skip
        plots["ttft-by-streams.svg"] = line_plot(
            "Median time to the first token by streams", label, "TTFT, ms",
            [*_measured(results, "streams", _ttft), *_streams_ttft_limits(results)],
        )  # fmt: skip
    return plots


Figure = Callable[[Results, str, str, int], float | None]


def _median(figure: str) -> Figure:
    def of(results: Results, server: str, scenario: str, case: int) -> float | None:
        spread = results.spread(server, scenario, case, figure)
        return None if spread is None else spread.median

    return of


_output_rate = _median("output_rate")
_ttft = _median("ttft_p50")


def _decoding_rate(results: Results, server: str, scenario: str, case: int) -> float | None:
    """Of one stream, from the first token on."""
    tpot = _median("tpot_p50")(results, server, scenario, case)
    return 1e3 / tpot if tpot else None


def _measured(results: Results, scenario: str, figure: Figure) -> list[Line]:
    lines = []
    for server in results.servers():
        values = [(c, figure(results, server, scenario, c)) for c in results.cases(scenario)]
        points = [(float(case), value) for case, value in values if value]
        if points:
            lines.append(Line(server, points))
    return lines


def _limit(name: str, cases: list[int], values: Iterable[float]) -> Line:
    return Line(name, list(zip(map(float, cases), values, strict=True)), is_limit=True)


def _context_rate_limits(results: Results) -> list[Line]:
    model, limits, cases = results.model, machine_limits(results), results.cases("context")
    lines: list[Line] = []
    if model is None:
        return lines
    if (memory := limits.memory) is not None:
        for name, size in _weights(model):
            rates = [memory / step_bytes(model, size, 1, case) for case in cases]
            lines.append(_limit(name, cases, rates))
    for name, peak in _arithmetic(limits):
        lines.append(_limit(name, cases, [peak / token_ops(model, case) for case in cases]))
    return lines


def _context_ttft_limits(results: Results) -> list[Line]:
    model, cases = results.model, results.cases("context")
    if model is None:
        return []
    return [
        _limit(name, cases, [1e3 * prompt_ops(model, case) / peak for case in cases])
        for name, peak in _arithmetic(machine_limits(results))
    ]


def _streams_rate_limits(results: Results) -> list[Line]:
    """For the whole load: each stream's prompt, then one step with all streams for each token."""
    model, limits, cases = results.model, machine_limits(results), results.cases("streams")
    lines: list[Line] = []
    if model is None:
        return lines
    context = INPUT_LEN + OUTPUT_LEN / 2
    if (memory := limits.memory) is not None:
        for name, size in _weights(model):
            rates = [case * memory / step_bytes(model, size, case, context) for case in cases]
            lines.append(_limit(name, cases, rates))
    ops = prompt_ops(model, INPUT_LEN) / OUTPUT_LEN + token_ops(model, context)
    for name, peak in _arithmetic(limits):
        lines.append(_limit(name, cases, [peak / ops] * len(cases)))
    return lines


def _streams_ttft_limits(results: Results) -> list[Line]:
    """Half of the prompts have to be computed before the median request has its first token."""
    model, cases = results.model, results.cases("streams")
    if model is None:
        return []
    ops = prompt_ops(model, INPUT_LEN)
    return [
        _limit(name, cases, [1e3 * ((case + 1) // 2) * ops / peak for case in cases])
        for name, peak in _arithmetic(machine_limits(results))
    ]


def _weights(model: ModelSize) -> list[tuple[str, float]]:
    sizes = [("4-bit", model.quantized_bytes), ("bf16", 2 * model.num_parameters)]
    return [(f"limit: memory, {kind} ({size / 1e6:.0f} MB)", size) for kind, size in sizes]


def _arithmetic(limits: Limits) -> list[tuple[str, float]]:
    named = [("limit: int8 arithmetic", limits.int8), ("limit: bf16 arithmetic", limits.bf16)]
    return [(name, peak) for name, peak in named if peak is not None]
