"""Medians, ratios, tables, plots and files, from samples whose answers are known."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from comparison.growth import growth_plots, prompt_ops, step_bytes, token_ops
from comparison.publish import MARK, write_documents
from comparison.report import heading, number, tables
from comparison.results import MACHINE, ModelSize, Results, Run, Sample, Spread, load_results
from comparison.svg import Line, line_plot, ticks

SERVERS = {"Octavo": "ours", "A": "peer", "B": "peer"}
MODEL = ModelSize(1000, 100, 2, 3, 1, 4, 600)


def make_results(*samples: Sample) -> Results:
    run = Run("2026-01-01", "abc", "2 cores", "python compare.py", 0.1, SERVERS, ["C: no file"])
    return Results(run, MODEL, ["A", "B"], list(samples))


def rates(server: str, *values: float, scenario: str = "decode", case: int = 16) -> list[Sample]:
    return [
        Sample(server, scenario, case, number, {"output_rate": value, "ttft_p50": 1e3 / value})
        for number, value in enumerate(values)
    ]


def cells(text: str, server: str) -> list[str]:
    """The first row of `server`, without its name."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {server} |"))
    return row.strip("| ").split(" | ")[1:]


def test_medians_and_ratios() -> None:
    results = make_results(*rates("Octavo", 90, 400, 410), *rates("A", 99, 101), *rates("B", 200))
    assert results.spread("Octavo", "decode", 16, "output_rate") == Spread(400, 90, 410, 3)
    assert results.best_peer("decode", 16, "output_rate") == ("B", 200)
    assert results.best_peer("decode", 16, "output_rate", min) == ("A", 100)
    text = tables(results)
    assert "### Decode, 128 in and 128 out, 16 at a time" in text
    assert cells(text, "Octavo")[0] == "400 (90 to 410)"
    assert cells(text, "Octavo")[-1] == "2.00"
    assert (cells(text, "A")[0], cells(text, "A")[-1]) == ("100", "0.50")
    assert cells(text, "B")[-1] == "1.00"


def test_ratios_of_what_should_be_small() -> None:
    text = tables(
        make_results(
            Sample("Octavo", "start", 0, 0, {"start_seconds": 2.0}),
            Sample("A", "start", 0, 0, {"start_seconds": 1.0}),
            Sample("B", "start", 0, 0, {"start_seconds": 8.0, "loaded_mb": 1234.5}),
        )
    )
    assert cells(text, "Octavo") == ["2.00", "-", "-", "-", "0.50"]
    assert cells(text, "B") == ["8.00", "1,234", "-", "-", "0.12"]


def test_failures_are_told() -> None:
    failed = Sample("A", "decode", 16, 1, error="it | died\nhere")
    text = tables(make_results(*rates("Octavo", 400), *rates("A", 100), failed))
    assert cells(text, "A")[0] == "100, failed 1 times"
    assert "- A: failed, it / died here" in text
    text = tables(make_results(*rates("Octavo", 400), failed))
    assert cells(text, "A")[0] == "failed"
    assert len(cells(text, "Octavo")) == 5  # no peer, no ratio


def test_numbers() -> None:
    assert number(None, 1) == "-"
    assert number(Spread(1000.4, 990, 1010, 3), 0) == "1,000"
    assert number(Spread(10.0, 9.5, 10.6, 3), 1) == "10.0 (9.5 to 10.6)"


def test_the_machine_and_the_heading() -> None:
    results = make_results(
        Sample(MACHINE, "limits", 0, 0, {"memory_gb_s": 35.0, "int8_gops": 1300.0}),
        Sample(MACHINE, "limits", 0, 1, error="there is no g++"),
    )
    assert "| 35.0, failed 1 times | - | 1,300 | - | - |" in tables(results)
    text = heading(results)
    for words in ("abc", "2 cores", "`python compare.py`", "rounds: 2", "not measured: C: no file"):
        assert words in text


def test_limits_by_hand() -> None:
    # Two layers, one head for keys and values of 4 numbers: 2 * 2 * 4 numbers of 2 bytes a token.
    assert step_bytes(MODEL, 600, streams=3, context=10) == 600 + 3 * 10 * 32
    # 3 heads of 4 numbers, two layers, four operations for each.
    assert token_ops(MODEL, 10) == 2000 + 10 * 4 * 2 * 3 * 4
    assert prompt_ops(MODEL, 1) == pytest.approx(2000 + 48)
    assert prompt_ops(MODEL, 4) == pytest.approx(4 * (2000 - 200 + 192) + 200)


def growth_results() -> Results:
    samples = [Sample(MACHINE, "limits", 0, 0, {"memory_gb_s": 35, "int8_gops": 1300.0})]
    for server in ("Octavo", "A & <B>"):
        for scenario, cases in (("context", (128, 8192)), ("streams", (1, 64))):
            for case in cases:
                figures = {"output_rate": 9.0 * case, "ttft_p50": 2.0 * case, "tpot_p50": 10.0}
                samples.append(Sample(server, scenario, case, 0, figures))
    results = make_results(*samples)
    results.run.servers["A & <B>"] = "peer"
    return results


def test_plots_are_whole_and_within_their_frame() -> None:
    plots = growth_plots(growth_results())
    assert len(plots) == 4
    for svg in plots.values():
        root = ElementTree.fromstring(svg)  # noqa: S314
        space = {"": "http://www.w3.org/2000/svg"}
        texts = [element.text for element in root.findall("text", space)]
        assert {"Octavo", "A & <B>", "limit: int8 arithmetic"} <= set(texts)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for line in root.findall("polyline", space):
            for pair in line.attrib["points"].split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
    assert growth_plots(make_results(*rates("Octavo", 1.0))) == {}


def test_a_line_goes_where_its_points_are() -> None:
    line = Line("name", [(1, 10), (10, 10), (100, 1000)])
    root = ElementTree.fromstring(line_plot("title", "x", "y", [line]))  # noqa: S314
    dots = [
        (float(dot.attrib["cx"]), float(dot.attrib["cy"]))
        for dot in root.iter("{http://www.w3.org/2000/svg}circle")
    ]
    (x1, y1), (x2, y2), (x3, y3) = dots
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)  # decades are equally long
    assert y1 == y2 > y3  # up is more


def test_ticks() -> None:
    assert ticks(1, 10) == [1, 2, 5, 10]
    assert ticks(30, 90) == [50]
    assert ticks(0.9, 10_000) == [1, 10, 100, 1000, 10_000]


def test_results_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    results = growth_results()
    results.save(path)
    assert asdict(load_results(path)) == asdict(results)
    for text in ("{}", "[]", '{"run": {}, "model": null, "peers": [], "samples": []}', "no"):
        path.write_text(text)
        with pytest.raises(ValueError):
            load_results(path)


def test_documents_are_written_and_written_again(tmp_path: Path) -> None:
    log, page = tmp_path / "benchmarks/RESULTS.md", tmp_path / "docs/performance.md"
    for path, text in ((log, "# Results\n"), (page, f"# Performance\n\n{MARK}\n\nold\n")):
        path.parent.mkdir()
        path.write_text(text)
    results = growth_results()
    results.samples += rates("Octavo", 400)
    for _ in range(2):
        paths = write_documents(results, tmp_path)
    assert all(path.exists() for path in paths)
    assert log.read_text().count("## Side by side") == 1
    text = page.read_text()
    assert text.startswith(f"# Performance\n\n{MARK}\n\n![")
    assert "old" not in text
    assert "performance/ttft-by-context.svg" in text
    assert asdict(load_results(tmp_path / "docs/performance/results.json")) == asdict(results)
    page.write_text("# Performance\n")
    with pytest.raises(ValueError, match="has lost its line"):
        write_documents(results, tmp_path)
