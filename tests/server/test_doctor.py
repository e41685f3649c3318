"""`octavo doctor` as a process, on this machine and on broken ones; and what it concludes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine import EngineProspect, Machine
from server.cli.diagnosis import Diagnosis, Disk, ModelFacts, diagnose
from server.cli.doctor import _examine_disk

ROOT = Path(__file__).parents[2]
RUN = "import sys; from server.cli.doctor import doctor; doctor(sys.argv[1:], prog_name='octavo')"

MACHINE = Machine(
    processor="P",
    architecture="x86_64",
    cpu_flags=frozenset({"avx2", "avx512_bf16"}),
    num_cpus=4,
    usable_cpus=4,
    total_memory=16 << 30,
    available_memory=8 << 30,
    gpus=("NVIDIA G",),
    huge_pages="madvise",
)
ENGINE = EngineProspect(
    torch="2", cuda_build="13", compiler="g++", gpus=("G",), device="cuda", kernels="Triton (3)"
)
MODEL = ModelFacts("m", "/m", num_bytes=1 << 30, is_quantized=True)
DISK = Disk("/cache", 50 << 30, True)
CPU = replace(ENGINE, gpus=(), device="cpu", kernels="C++ (AVX2)", stays_quantized=True)
ALONE = replace(MACHINE, gpus=())


def doctor(
    *arguments: str, path: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=path,
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", **variables},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_this_machine(builtin_model: Path) -> None:
    run = doctor("--model-dirs", str(builtin_model.parents[2]))
    assert run.returncode == 0, run.stderr
    for heading in ("Machine", "Software", "Model", "Engine"):
        assert f"{heading}\n  " in run.stdout
    for words in ("smollm2-135m-instruct", "135 M parameters, 98 MB, quantized", "has a template"):
        assert words in run.stdout
    assert "cpu" in run.stdout
    assert "can serve smollm2-135m-instruct here" in run.stdout


def test_as_json(builtin_model: Path) -> None:
    run = doctor("--json", "--device", "cpu", "--dtype", "float32", str(builtin_model))
    report = json.loads(run.stdout)
    assert run.returncode == 0
    assert (report["engine"]["device"], report["engine"]["dtype"]) == ("cpu", "float32")
    assert report["engine"]["reason"] == "cpu: asked for; float32: asked for"
    assert report["engine"]["kernels"]
    assert report["model"]["path"] == str(builtin_model)
    assert 1 <= report["machine"]["usable_cpus"] <= report["machine"]["num_cpus"]
    assert 0 < report["machine"]["available_memory"] <= report["machine"]["total_memory"]
    assert report["problems"] == []


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ImportError('libtorch_cpu.so: cannot open shared object file')", "libtorch_cpu.so"),
        ("import os; os.abort()", "it ended with -6"),
    ],
)
def test_a_broken_torch(tmp_path: Path, module: str, words: str) -> None:
    (tmp_path / "torch.py").write_text(module)
    run = doctor(path=tmp_path)
    assert run.returncode == 3
    assert "problem: the engine cannot be started: " in run.stdout
    assert words in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert "torch         cannot be used" in run.stdout
    assert "cores" in run.stdout


def test_a_torch_that_talks(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('{warning: too old}'); raise ImportError('old')")
    run = doctor(path=tmp_path)
    assert (run.returncode, run.stderr) == (3, "")
    assert "problem: the engine cannot be started: ImportError: old" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./none.gguf"], "no such file or folder"),
        (["models/none.gguf"], "no such file or folder"),
        (["smollm3"], "no model is called 'smollm3'"),
        ([str(ROOT / "server")], "needs a config.json"),
        (["somebody/model", "--offline"], "somebody/model is not on this machine"),
        (["--device", "cuda"], "torch finds no CUDA device"),
        (["--quantization", "int8", "--dtype", "float32"], "needs a CPU with AVX2, a C++ compiler"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, arguments: list[str], words: str) -> None:
    if arguments == ["--device", "cuda"] and Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    run = doctor(*arguments, HF_HOME=str(tmp_path))
    assert run.returncode == 3
    (problem,) = [line for line in run.stdout.splitlines() if line.startswith("problem: ")]
    assert words in problem
    assert "Traceback" not in run.stderr


def test_models_that_would_be_fetched(tmp_path: Path) -> None:
    run = doctor("--cache-dir", str(tmp_path / "none"), "--model-dirs", "")
    assert run.returncode == 0
    assert "not here yet: `octavo pull` fetches it" in run.stdout
    assert not (tmp_path / "none" / "models").exists()
    read_only = diagnose(
        ALONE, CPU, ModelFacts("m"), replace(DISK, is_writable=False), offline=False
    )
    assert read_only.problems == ["/cache cannot be written, where the model would be kept"]


def test_a_cache_that_is_not_there_yet(tmp_path: Path) -> None:
    """What counts is where it would be made."""
    disk = _examine_disk(tmp_path / "none" / "of" / "these")
    assert disk.is_writable
    assert disk.free_bytes
    (tmp_path / "file").touch()
    assert not _examine_disk(tmp_path / "file" / "none").is_writable


@pytest.mark.parametrize(
    ("machine", "engine", "model", "words"),
    [
        (MACHINE, replace(CPU, cuda_build=None), MODEL, "CUDA build"),
        (MACHINE, CPU, MODEL, "compare its CUDA version"),
        (MACHINE, replace(ENGINE, device="cpu"), MODEL, "--device cuda"),
        (ALONE, replace(CPU, kernels="plain torch (no C++ compiler)", compiler=None), MODEL, "g++"),
        (ALONE, replace(CPU, kernels="plain torch (c++ failed)"), MODEL, "c++ failed"),
        (replace(ALONE, cpu_flags=frozenset()), replace(CPU, stays_quantized=False), MODEL, "AVX2"),
        (ALONE, CPU, replace(MODEL, is_quantized=False), "--quantization int8"),
        (
            replace(ALONE, cpu_flags=frozenset()),
            replace(CPU, stays_quantized=False, dtype="float32"),
            replace(MODEL, is_quantized=False),
            "no fast bfloat16",
        ),
        (replace(ALONE, usable_cpus=2), CPU, MODEL, "2 of 4 cores"),
        (replace(ALONE, huge_pages="never"), CPU, MODEL, "madvise"),
        (replace(ALONE, available_memory=1 << 30), CPU, MODEL, "smaller model"),
        (ALONE, CPU, MODEL, "GPU"),
    ],
)
def test_what_would_make_it_faster(
    machine: Machine, engine: EngineProspect, model: ModelFacts, words: str
) -> None:
    found = diagnose(machine, engine, model, DISK, offline=False)
    assert found.problems == []
    assert any(words in hint for hint in found.hints), found.hints


def test_quantization_is_no_advice_where_it_was_decided() -> None:
    plain = replace(MODEL, is_quantized=False)
    found = diagnose(ALONE, CPU, plain, DISK, offline=False, may_quantize=False)
    assert "--quantization" not in str(found.hints)


def test_nothing_to_say() -> None:
    assert diagnose(MACHINE, ENGINE, MODEL, DISK, offline=True) == Diagnosis()


def test_little_disk() -> None:
    found = diagnose(MACHINE, ENGINE, MODEL, replace(DISK, free_bytes=5_000_000), offline=False)
    assert found.hints == ["free some disk: /cache has 5 MB left"]
