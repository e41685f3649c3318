"""Where a setting comes from, and how `octavo serve` takes it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from engine import BUILTIN_MODEL
from server.cli.serve import _model_names, serve
from server.listen import ListenError, bind, is_loopback, socket_url
from server.settings import Settings, load_settings


def test_defaults() -> None:
    settings = load_settings({})
    assert (settings.model, settings.host, settings.port) == (BUILTIN_MODEL, "127.0.0.1", 8000)
    config = settings.engine_config(Path("x"))
    assert (config.model_path, config.kv_cache_memory, config.block_size) == ("x", None, 16)
    assert config.gpu_memory_utilization == 0.9
    assert config.quantization == "auto"
    rounded = load_settings({"quantization": "int8"}).engine_config(Path("x"))
    assert rounded.quantization == "int8"


def test_order_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "octavo.toml"
    file.write_text('port = 1\nhost = "file"\ndtype = "float32"\nkv_cache_memory = "1GiB"\n')
    monkeypatch.setenv("OCTAVO_PORT", "2")
    monkeypatch.setenv("OCTAVO_HOST", "environment")
    settings = load_settings({"port": "3"}, file)
    assert (settings.port, settings.host, settings.dtype) == (3, "environment", "float32")
    memory = settings.engine_config(Path("x")).kv_cache_memory
    assert memory == 2**30
    assert type(memory) is int  # what is sent to the engine must be plain
    monkeypatch.setenv("OCTAVO_CONFIG", str(file))
    assert load_settings({}).dtype == "float32"


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTAVO_CACHE", raising=False)
    file = tmp_path / "octavo.toml"
    file.write_text('cache_dir = "/file"\n')
    assert load_settings({}, file).cache_dir == Path("/file")
    monkeypatch.setenv("OCTAVO_CACHE", "/environment")
    assert load_settings({}, file).cache_dir == Path("/environment")
    assert load_settings({"cache_dir": "/option"}, file).cache_dir == Path("/option")


def test_model_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}).model_dirs == ()
    file = tmp_path / "octavo.toml"
    file.write_text('model_dirs = ["/one", "/two"]\n')
    assert load_settings({}, file).model_dirs == (Path("/one"), Path("/two"))
    monkeypatch.setenv("OCTAVO_MODEL_DIRS", f"/three{os.pathsep}/four")
    assert load_settings({}, file).model_dirs == (Path("/three"), Path("/four"))
    assert load_settings({"model_dirs": "/five"}, file).model_dirs == (Path("/five"),)
    monkeypatch.setenv("OCTAVO_MODEL_DIRS", "")
    assert load_settings({}).model_dirs == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1\n", "there is no setting 'prot'; did you mean port?"),
        ("colour = 1\n", "there is no setting 'colour'"),
        ('port = "x"\n', "port: Input should be a valid integer"),
        ("cache_dir = 1\n", "cache_dir: Input"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "octavo.toml"
    file.write_text(text)
    with pytest.raises(ValidationError):
        load_settings({}, file)
    result = CliRunner().invoke(serve, ["--config", str(file)])
    assert result.exit_code == 2
    assert f"{file}: {words}" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("content", [b"port = \n", b"host = '\xff'\n"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "octavo.toml"
    file.write_bytes(content)
    result = CliRunner().invoke(serve, ["--config", str(file)])
    assert result.exit_code == 2
    assert f"the configuration file {file}: " in result.output


def test_a_variable_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_MAX_NUM_SEQS", "many")
    result = CliRunner().invoke(serve, [])
    assert result.exit_code == 2
    assert "OCTAVO_MAX_NUM_SEQS: Input should be a valid integer" in result.output


def test_a_variable_that_is_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would read it. What a platform sets for a service of our name is nobody's mistake."""
    for name in ("OCTAVO_API_KEYS", "octavo_prot", "OCTAVO_SERVICE_HOST", "OCTAVO_PORT_8000_TCP"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OCTAVO_BASE_URL", "http://127.0.0.1:9")
    result = CliRunner().invoke(serve, ["--print-config"])
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "octavo: OCTAVO_API_KEYS is not read; did you mean OCTAVO_API_KEY?",
        "octavo: octavo_prot is not read; did you mean OCTAVO_PORT?",
    ]


def test_a_missing_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, ["--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "none.toml" in result.output


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--port", "x"], "--port: "),
        (["--port", "65536"], "--port: "),
        (["--kv-cache-memory", "much"], "--kv-cache-memory: "),
        (["--gpu-memory-utilization", "1.1"], "--gpu-memory-utilization: "),
        (["--gpu-memory-utilization", "0"], "--gpu-memory-utilization: "),
        (["--device", "abacus"], "--device"),
        (["--stream-stall-timeout", "inf"], "--stream-stall-timeout: "),
        (["--drain-timeout", "nan"], "--drain-timeout: "),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_usage_errors(options: list[str], name: str) -> None:
    result = CliRunner().invoke(serve, options)
    assert result.exit_code == 2
    assert name in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("names", "expected"),
    [("a, b,", ["a", "b"]), ("", ["org/model"]), (" ,", ["org/model"]), (None, ["org/model"])],
)
def test_names_of_the_model(names: str | None, expected: list[str]) -> None:
    settings = Settings(model="org/model", served_model_name=names)
    assert _model_names(settings, "a checkpoint's") == expected


def test_every_setting_is_an_option() -> None:
    output = CliRunner().invoke(serve, ["--help"]).output
    for name in Settings.model_fields.keys() - {"model"}:
        assert f"--{name.replace('_', '-')}" in output
    assert "--no-enable-prefix-caching" in output


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(serve, ["--port", str(port)])
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert f"127.0.0.1 port {port}" in result.stderr


@pytest.mark.parametrize("host", ["no such host", "999.1.1.1", "h" * 300])
def test_a_bad_host(host: str) -> None:
    with pytest.raises(ListenError):
        bind(host, 0)


def test_urls() -> None:
    with bind("127.0.0.1", 0) as sock:
        assert socket_url(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"
        assert is_loopback(sock)
    with bind("0.0.0.0", 0) as sock:  # noqa: S104
        assert socket_url(sock).startswith("http://127.0.0.1:")
        assert not is_loopback(sock)
