"""Triton's set of kernels as a whole: when it is chosen, models on it, and its compiler."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from replayed_steps import replayable_runner
from tiny_models import BareEngine, Chunk, save_tiny_model

from engine.batch import Batch, RowStart, ScheduledRow
from engine.kernels import select
from engine.request import SamplingParams

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def run_python(*arguments: str, cache_dir: Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, in which nothing is interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(ROOT), str(ROOT / "tests"), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(cache_dir)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="BareEngine computes on the CPU")
def test_greedy_tokens_are_the_reference_s(tmp_path: Path, family: str) -> None:
    pytest.importorskip("triton")
    save_tiny_model(family, tmp_path)
    prompts = [
        [(7 * i + 3 * row) % 199 for i in range(length)] for row, length in enumerate((5, 40))
    ]
    answers = {}
    for name in ("reference", "triton"):
        engine = BareEngine(tmp_path, num_rows=2, max_model_len=64, kernels=name)
        texts = [list(prompt) for prompt in prompts]
        done = [0, 0]
        engine.run([Chunk(1, texts[1][:36], 0)])  # the rest joins the other row's first step
        done[1] = 36
        for _ in range(3):
            chunks = [Chunk(row, text[done[row] :], done[row]) for row, text in enumerate(texts)]
            for row, logits in enumerate(engine.run(chunks)):
                done[row] = len(texts[row])
                texts[row].append(int(logits[-1].argmax()))
        answers[name] = texts
    assert answers["triton"] == answers["reference"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="replayable_runner computes on the CPU")
def test_what_others_left_in_pages_is_neither_read_nor_cleared(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    save_tiny_model("llama", tmp_path)
    tokens = {}
    for left in (0.0, math.nan):
        runner = replayable_runner(tmp_path, 2, select(CPU, torch.float32, "triton"))
        pages = runner._kv_cache._pages[:, :2].fill_(left)
        row = ScheduledRow(1, 0, 3, [1, 2, 3], 0, [1], sample=True)
        starts = [RowStart(1, 0, SamplingParams(temperature=0.0), [1, 2, 3], 3)]
        [output] = runner.launch(Batch(starts, [], [row])).wait()
        row = ScheduledRow(1, 3, 1, output.token_ids, 1, [], sample=True)
        tokens[left] = output.token_ids + runner.launch(Batch([], [], [row])).wait()[0].token_ids
        assert not pages[:, 1, ..., :4, :].isnan().any()
    assert pages[:, 1, ..., 4:, :].isnan().all()
    assert len(tokens[0.0]) == 2 and tokens[0.0] == tokens[math.nan]


def test_what_it_says_of_itself() -> None:
    triton = pytest.importorskip("triton")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernels = select(device, torch.float32, "triton")
    kernels.pack_linear(torch.zeros(4, 8, device=device), None)
    assert kernels.describe().startswith(f"Triton ({triton.__version__}, ")
    assert "float32 weights" in kernels.describe()
    assert not kernels.takes_grouped(64)


def test_without_triton_a_gpu_gets_the_reference(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in list(sys.modules):
        if name.startswith("engine.kernels.triton"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.WARNING, "octavo.engine"):
        kernels = select(torch.device("cuda"), torch.bfloat16)
    assert kernels.describe().startswith("plain torch (")
    assert "triton" in kernels.describe()
    [record] = caplog.records
    assert "slower" in record.getMessage() and "triton" in record.getMessage()
    with pytest.raises(ImportError, match="triton"):
        select(torch.device("cuda"), torch.bfloat16, "triton")


def test_an_old_gpu_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton does not say no to one: some kernels fail there, and some end the process."""
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    old = SimpleNamespace(name="Tesla T4", major=7, minor=5, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: old)
    kernels = select(torch.device("cuda"), torch.float16)
    assert kernels.describe() == (
        "plain torch (Triton needs a GPU of compute capability 8.0; Tesla T4 has 7.5)"
    )


def test_on_the_cpu_triton_is_not_even_imported(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    lines = (
        "import sys, torch",
        "from engine.kernels import select",
        "select(torch.device('cpu'), torch.float32)",
        "assert 'triton' not in sys.modules",
        "select(torch.device('cpu'), torch.float32, 'triton')",
    )
    run = run_python("-c", "\n".join(lines), cache_dir=tmp_path)
    assert run.stderr.splitlines()[-1].endswith("Triton kernels need a GPU, not the device 'cpu'")


# By compute capability, the KB that a program may share (CUDA C++ Programming Guide, table of
# technical specifications): A100, A10 and RTX 30, RTX 40, H100 and H200, B200, RTX 50.
SHARED_KB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "capability",
    [
        pytest.param(capability, marks=() if capability == 90 else pytest.mark.slow)
        for capability in SHARED_KB
    ],
)
def test_everything_compiles_for_gpus(tmp_path: Path, capability: int) -> None:
    pytest.importorskip("triton")
    most = SHARED_KB[capability] * 1024
    program = str(ROOT / "tests/compile_for_gpu.py")
    run = run_python(program, str(capability), str(most), cache_dir=tmp_path)
    assert run.returncode == 0, run.stderr[-4000:]
    compiled = [line.split() for line in run.stdout.splitlines()]
    assert {name for name, _ in compiled} == {
        "_rms_norm", "_add_rms_norm", "_add_layer_norm", "_silu_mul", "_gelu_mul", "_gelu",
        "_rotary_store_kv", "_store_kv", "_attend", "_merge",
    }  # fmt: skip
    assert all(int(shared) <= most for _, shared in compiled), compiled
