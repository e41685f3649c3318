"""`octavo pull` and `octavo models`, as functions and as processes with a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_files import write_gguf
from click.testing import CliRunner
from hub_server import Hub, serving
from pseudo_terminal import plain, terminal

from engine import BUILTIN_MODEL
from server.cli.models import models
from server.cli.pull import pull

ROOT = Path(__file__).parents[2]
REPO = "somebody/tiny-model"
RUN = "import sys; from server.cli.{0} import {0}; {0}(sys.argv[1:], prog_name='octavo {0}')"


def octavo(
    command: str, *arguments: str, home: Path, endpoint: str = ""
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with Hugging Face's cache below `home`."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-c", RUN.format(command), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=home_environment(home, endpoint),
    )


def home_environment(home: Path, endpoint: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "OCTAVO_CACHE": str(home / "cache"),
    }


def assert_failed(run: subprocess.CompletedProcess[str], words: str) -> None:
    assert run.returncode == 1
    [line] = [line for line in run.stderr.splitlines() if line.startswith("octavo: ")]
    assert words in line
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_pull_from_the_hub_then_list_it(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    with serving(Hub(REPO, {"tiny.gguf": gguf})) as hub:
        pulled = octavo("pull", f"{REPO}:tiny.gguf", home=tmp_path, endpoint=hub.endpoint)
    assert pulled.returncode == 0, pulled.stderr
    path = Path(pulled.stdout.removesuffix("\n"))
    assert path.read_bytes() == gguf
    assert path.is_relative_to(tmp_path / "huggingface")

    listed = octavo("models", home=tmp_path, endpoint="http://127.0.0.1:9")
    assert listed.returncode == 0, listed.stderr
    header, row, *rest = listed.stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "CONTEXT", "FAMILY", "TYPE", "FORMAT", "PATH"]
    name = f"{REPO}:tiny.gguf"
    assert row.split() == [name, "0", "MB", "128", "llama", "F32", "GGUF", str(path)]
    assert rest == [f"{BUILTIN_MODEL} is built in but not here yet: `octavo pull` fetches it."]

    as_json = octavo("models", "--json", home=tmp_path)
    listed_model = json.loads(as_json.stdout)
    assert listed_model.pop("num_parameters") > 0
    assert listed_model == {
        "name": f"{REPO}:tiny.gguf",
        "num_bytes": len(gguf),
        "format": "GGUF",
        "path": str(path),
        "family": "llama",
        "quantization": "F32",
        "context_length": 128,
        "source": f"{REPO}:tiny.gguf",
    }

    for run in (pulled, listed):
        imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
        assert "click" in imported
        assert "torch" not in imported


def test_what_cannot_be_served_is_listed_with_the_reason(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    with serving(Hub(REPO, {"tiny.gguf": gguf})) as hub:
        pulled = octavo("pull", f"{REPO}:tiny.gguf", home=tmp_path, endpoint=hub.endpoint)
    path = Path(pulled.stdout.removesuffix("\n"))
    with path.open("r+b") as file:
        file.truncate(len(gguf) - 100)
    listed = octavo("models", home=tmp_path)
    assert listed.returncode == 0, listed.stderr
    _, row, reason, *_ = listed.stdout.splitlines()
    assert row.split()[3:6] == ["-", "-", "-"]
    assert reason.startswith(f"{REPO}:tiny.gguf cannot be served: {path}: the tensor ")
    [line] = octavo("models", "--json", home=tmp_path).stdout.splitlines()
    assert json.loads(line)["problem"].startswith(f"{path}: the tensor ")


def test_a_bar_on_a_terminal_and_lines_elsewhere(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    with serving(Hub(REPO, {"tiny.gguf": gguf})) as hub:
        piped = octavo("pull", f"{REPO}:tiny.gguf", home=tmp_path / "a", endpoint=hub.endpoint)
        command = [sys.executable, "-c", RUN.format("pull"), f"{REPO}:tiny.gguf"]
        environment = {
            **home_environment(tmp_path / "b", hub.endpoint),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
        }
        with terminal(command, environment, cwd=ROOT) as screen:
            assert screen.wait() == 0
    lines = [line for line in piped.stderr.splitlines() if not line.startswith("import time")]
    assert [line for line in lines if "downloading" in line] == lines
    assert "100%" in plain(screen.written)
    assert "\u2501" in screen.written  # what bars are made of
    last = plain(screen.written).strip().splitlines()[-1]
    assert last.endswith("tiny.gguf")
    assert (tmp_path / "b" / "huggingface").exists()


def test_what_is_pulled_is_opened(tmp_path: Path) -> None:
    """Better to hear now that it cannot be served than where there is no network."""
    with serving(Hub(REPO, {"tiny.gguf": b"GGUF, or so it says"})) as hub:
        run = octavo("pull", f"{REPO}:tiny.gguf", home=tmp_path, endpoint=hub.endpoint)
    assert_failed(run, "tiny.gguf")


def test_pull_of_what_does_not_exist(tmp_path: Path) -> None:
    assert_failed(octavo("pull", "smollm2-135", home=tmp_path), f"did you mean {BUILTIN_MODEL}?")


def test_pull_is_content_with_what_is_there(builtin_model: Path, tmp_path: Path) -> None:
    folders = os.pathsep.join([str(tmp_path / "none"), str(builtin_model.parents[2])])
    options = ["--cache-dir", str(tmp_path / "cache"), "--model-dirs", folders]
    result = CliRunner().invoke(pull, options)
    assert (result.exit_code, result.stdout) == (0, f"{builtin_model}\n")
    assert not (tmp_path / "cache").exists()
    as_json = CliRunner().invoke(pull, [*options, "--json"])
    facts = json.loads(as_json.stdout)
    assert (facts["name"], facts["path"]) == (BUILTIN_MODEL, str(builtin_model))
    assert 130e6 < facts["parameters"] < 140e6


def test_the_built_in_model_is_listed(
    builtin_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OCTAVO_MODEL_DIRS", str(builtin_model.parents[2]))
    result = CliRunner().invoke(models)
    assert result.exit_code == 0
    row = result.stdout.splitlines()[1]
    columns = [BUILTIN_MODEL, "98", "MB", "8,192", "llama", "Q4_1", "GGUF", str(builtin_model)]
    assert row.split() == columns
    assert f"{BUILTIN_MODEL} is built in: " in result.stdout


@pytest.mark.parametrize("command", [pull, models])
def test_wrong_settings_are_usage_errors(command: object, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "none.toml")])  # type: ignore[arg-type]
    assert result.exit_code == 2
    assert "none.toml" in result.output
