"""`octavo serve --print-config`, and the headings of `octavo serve --help`."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.groups import GROUPS
from server.cli.options import ALL_SETTINGS
from server.cli.serve import serve
from server.settings import Settings

ROOT = Path(__file__).parents[2]


def printed(*arguments: str) -> dict[str, tuple[str, str]]:
    """By name: what stands before the origin, and the origin."""
    result = CliRunner().invoke(serve, [*arguments, "--print-config"])
    assert result.exit_code == 0, result.output
    rows = {}
    for line in result.stdout.splitlines():
        setting, _, origin = line.rpartition("  # ")
        rows[setting.removeprefix("# ").split(" ")[0]] = (setting.strip(), origin)
    return rows


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "octavo.toml"
    path.write_text('port = 1\nhost = "file"\ndtype = "float32"\n')
    return str(path)


def test_who_said_what(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_PORT", "2")
    monkeypatch.setenv("octavo_device", "cpu")
    monkeypatch.setenv("OCTAVO_CACHE", "/cache")
    rows = printed("my-model", "--host", "here", "--config", config, "--no-offline")
    assert set(rows) == set(Settings.model_fields)
    assert rows["model"] == ('model = "my-model"', "option")
    assert rows["host"] == ('host = "here"', "option")
    assert rows["port"] == ("port = 2", "environment")
    assert rows["device"] == ('device = "cpu"', "environment")
    assert rows["dtype"] == ('dtype = "float32"', "file")
    assert rows["offline"] == ("offline = false", "option")
    assert rows["cache_dir"] == ('cache_dir = "/cache"', "environment")
    assert rows["block_size"] == ("block_size = 16", "default")
    assert rows["max_num_seqs"] == ("# max_num_seqs is not set", "default")


def test_the_file_may_be_named_in_the_environment(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTAVO_CONFIG", config)
    assert printed()["port"] == ("port = 1", "file")


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_API_KEY", "s3cret")
    assert printed()["api_key"] == ("# api_key is set and not shown", "environment")
    assert "s3cret" not in CliRunner().invoke(serve, ["--print-config"]).output


def test_it_can_be_used_as_a_file(tmp_path: Path) -> None:
    """And then says the same."""
    options = ["--kv-cache-memory", "2GiB", "--model-dirs", "/a:/b", "--served-model-name", '"x"']
    result = CliRunner().invoke(serve, [*options, "--print-config"])
    path = tmp_path / "printed.toml"
    path.write_text(result.stdout)
    read = tomllib.loads(result.stdout)
    assert read["kv_cache_memory"] == 2 << 30
    assert (read["model_dirs"], read["served_model_name"]) == (["/a", "/b"], '"x"')
    again = printed("--config", str(path))
    assert again["kv_cache_memory"] == (f"kv_cache_memory = {2 << 30}", "file")
    assert again["model_dirs"] == ('model_dirs = ["/a", "/b"]', "file")


def test_it_starts_nothing() -> None:
    """Not even a listening socket: port 1 is not ours to take."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "server", "--port", "1", "--print-config"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0
    assert "port = 1 " in run.stdout
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "uvicorn"}


def test_every_option_has_one_heading() -> None:
    counts = Counter(name for names in GROUPS.values() for name in names)
    assert set(counts) == set(ALL_SETTINGS)
    assert set(counts.values()) == {1}


def test_help_has_headings() -> None:
    text = CliRunner().invoke(serve, ["--help"]).stdout
    for heading in GROUPS:
        assert f"\n{heading}:\n" in text
    rest = text.partition("\nOptions:\n")[2]
    assert "--print-config" in rest
    assert "--config PATH" in rest
    assert text.count("--port INTEGER") == 1
