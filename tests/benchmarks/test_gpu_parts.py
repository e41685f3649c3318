"""Every part of the GPU benchmarks runs on any machine at tiny sizes, with only what a GPU machine
has: torch, transformers and numpy, and none of the server's packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What transformers needs itself, and is there with it.
WITH_TRANSFORMERS = {"huggingface_hub", "tokenizers", "safetensors"}


def needed_by_the_server() -> list[str]:
    """The modules of what pyproject.toml asks for, but for torch, numpy and what they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in project["dependencies"]}
    assert {"fastapi", "uvicorn", "pydantic", "msgspec"} <= names
    return sorted(names - {"torch", "numpy"})


MISSING = needed_by_the_server()
MISSING_BUT_TRANSFORMERS = sorted({*MISSING} - WITH_TRANSFORMERS)

PROGRAM = """
import runpy, sys
module, missing, *arguments = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing.split(",")))  # importing them fails
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_part(part: str, out: Path, *options: str, missing: list[str]) -> tuple[dict, str]:
    """What `part` wrote and printed."""
    command = [sys.executable, "-c", PROGRAM, f"benchmarks.gpu.{part}", ",".join(missing), *options]
    command += ["--quick", "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (file,) = out.glob(f"{part}*.json")
    return json.loads(file.read_text()), run.stdout


@pytest.mark.timeout(600)
def test_limits(tmp_path: Path) -> None:
    found, printed = run_part("limits", tmp_path, missing=MISSING)
    values = {figure["case"]: figure["values"] for figure in found["figures"]}
    assert values["copy 16 MiB"]["bytes_per_s"] > 0
    assert values["matrix 8"]["flop_per_s"] > 0
    assert set(values["launch"]) == {"queued", "waited for", "read to the host"}
    assert found["environment"]["device"].startswith("cpu")
    assert printed.index("torch:") < printed.index("GB/s"), "what was found is told first"


@pytest.mark.timeout(600)
def test_workload(tmp_path: Path) -> None:
    peer = {"figures": [peer_figure("transformers tuned", 45.0)]}
    (tmp_path / "peers.json").write_text(json.dumps(peer))
    found, printed = run_part("workload", tmp_path, missing=MISSING)
    assert [figure["values"]["tokens"] for figure in found["figures"]] == [45, 45]
    (against,) = [table for table in found["tables"] if "against" in table["title"]]
    ratios = {name: ratio for name, _, ratio in against["rows"]}
    rate = found["tables"][0]["rows"][-1][3]
    assert ratios["transformers tuned"] == pytest.approx(rate / 45.0)
    assert ratios["bandwidth"] > 0 and ratios["vllm"] is None
    assert [target["reached"] for target in found["targets"]] == [None, None], "not on a CPU"
    assert "kernels" in " ".join(found["notes"])
    assert "up to 1 launches" in " ".join(found["notes"]), "what the runner itself chooses"


@pytest.mark.timeout(600)
def test_streams(tmp_path: Path) -> None:
    found, _ = run_part("streams", tmp_path, missing=MISSING)
    assert [figure["case"] for figure in found["figures"]] == ["1 streams 20/8", "3 streams 20/8"]
    for figure in found["figures"]:
        values = figure["values"]
        assert not figure["note"]
        assert values["output_rate"] > 0 and values["itl_p50_ms"] <= values["itl_p99_ms"]
        assert values["share"] == pytest.approx(values["ceiling_step_ms"] / values["step_ms"])
        assert "busy" not in values, "there is no GPU"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kernels", ["reference", pytest.param("triton", marks=pytest.mark.slow)])
def test_kernels(kernels: str, tmp_path: Path) -> None:
    """Triton's are interpreted."""
    if kernels == "triton":
        pytest.importorskip("triton")
    found, _ = run_part("kernels", tmp_path, "--kernels", kernels, missing=MISSING)
    titles = [table["title"] for table in found["tables"]]
    assert titles == (["tiny", "draw"] if kernels == "triton" else ["tiny"])
    cases = [figure["case"] for figure in found["figures"]]
    for operation in ("rms_norm", "add_rms_norm", "silu_mul", "head norms, rotary", "attention"):
        assert any(case.startswith(f"tiny: {operation}") for case in cases), operation
    for table in found["tables"]:
        assert {row[-1] for row in table["rows"]} == {"yes"}
        assert all(row[1] > 0 and row[2] > 0 for row in table["rows"])
    attention = [row for row in found["tables"][0]["rows"] if row[0].startswith("attention")]
    assert all(row[4] > 0 for row in attention), "products are counted"
    assert [target["reached"] for target in found["targets"]] == [True]
    assert ("Triton" in " ".join(found["notes"])) == (kernels == "triton")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_peer(tmp_path: Path) -> None:
    own = peer_figure("octavo", 100.0)
    (tmp_path / "workload.json").write_text(json.dumps({"figures": [own]}))
    found, _ = run_part("peers", tmp_path, "transformers", missing=MISSING_BUT_TRANSFORMERS)
    tokens = {figure["case"]: figure["values"]["tokens"] for figure in found["figures"]}
    assert tokens == {"nano-vllm workload": 45, "1 streams 20/8": 8, "3 streams 20/8": 24}
    row = found["tables"][0]["rows"][0]
    assert row[5] == pytest.approx(100.0 / row[3])


@pytest.mark.timeout(600)
def test_a_peer_that_is_not_there(tmp_path: Path) -> None:
    found, _ = run_part("peers", tmp_path, "vllm", missing=[*MISSING, "vllm"])
    assert not found["figures"]
    assert "vllm cannot be imported" in " ".join(found["notes"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "check", ["kernels", "sampler", pytest.param("tokens", marks=pytest.mark.slow)]
)
def test_checks(check: str, tmp_path: Path) -> None:
    found, _ = run_part("check", tmp_path, "--only", check, missing=MISSING_BUT_TRANSFORMERS)
    assert [target["reached"] for target in found["targets"]] == [True]
    (table,) = found["tables"]
    assert len(table["rows"]) > 10
    assert {row[-1] for row in table["rows"]} == {"yes"}


def peer_figure(engine: str, rate: float) -> dict:
    values = {"output_rate": rate}
    return {"engine": engine, "case": "nano-vllm workload", "values": values, "note": ""}


@pytest.mark.parametrize("step", [*map(str, range(1, 8)), "quick"])
def test_steps_name_parts_that_exist_and_end_in_time(step: str, tmp_path: Path) -> None:
    """`timeout` is replaced: it only writes down what it was to run, and fails for `limits`."""
    fake = tmp_path / "timeout"
    fake.write_text('#!/bin/sh\necho "$@" >> "$0.log"\ncase "$*" in *limits*) exit 124;; esac\n')
    fake.chmod(0o755)
    run = subprocess.run(
        ["bash", "benchmarks/gpu/run_all.sh", step, "some folder"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    commands = [line.split() for line in (tmp_path / "timeout.log").read_text().splitlines()]
    assert commands
    for seconds, python, flag, module, *options in commands:
        assert seconds.isdecimal() and (python, flag) == ("python3", "-m")
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").exists()
        assert " ".join(options).startswith("--out some folder")
    if step != "quick":
        assert sum(int(command[0]) for command in commands) <= 480
    has_failed = any("limits" in command[3] for command in commands)
    assert run.returncode == int(has_failed), run.stdout + run.stderr
    assert ("exit code 124" in run.stdout) == has_failed
