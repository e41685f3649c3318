"""Triton's set of kernels as a whole: when it is chosen, models on it, and its compiler."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import BareEngine, Chunk, save_tiny_model

from engine.kernels import select

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


@pytest.mark.timeout(300)
def test_everything_compiles_for_an_h200(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    run = run_python(str(ROOT / "tests/compile_for_hopper.py"), cache_dir=tmp_path)
    assert run.returncode == 0, run.stderr[-4000:]
    compiled = [line.split() for line in run.stdout.splitlines()]
    assert {name for name, _ in compiled} == {
        "_rms_norm", "_add_rms_norm", "_add_layer_norm", "_silu_mul", "_gelu_mul", "_gelu",
        "_rotary_store_kv", "_store_kv", "_attend", "_merge",
    }  # fmt: skip
    # Of the 227 KB that programs of a processor share, and never more than one of them can have.
    assert all(int(shared) <= 227 * 1024 for _, shared in compiled)
