"""Where API keys come from, and that none of them ever comes out again."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_engine import INFO
from pydantic import SecretStr

from server.api_keys import ApiKeyError, ApiKeys, load_api_keys
from server.banner import banner
from server.cli.serve import serve
from server.settings import load_settings
from server.tenants import Tenant


def test_both_sources_count(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# whose\nthird\n\n  fourth  \n\t# and\nfi#fth\n")
    keys = load_api_keys(SecretStr("first, second,"), file)
    assert len(keys) == 5
    for key in (b"first", b"second", b"third", b"fourth", b"fi#fth"):
        assert keys.owner(key) is not None
    for key in (b"", b"#", b"# whose", b"firs", b"first ", b"first,second", b"\xff", b"x" * 10**6):
        assert keys.owner(key) is None


def test_names_and_limits(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-1 name=alice rpm=60 tpm=1000\nsk-2\tname=alice tpm=1000 rpm=60\nsk=3\n")
    keys = load_api_keys(SecretStr("sk-4"), file)
    alice = Tenant("alice", True, 60, 1000)
    assert keys.owner(b"sk-1") == keys.owner(b"sk-2") == alice
    nameless = [keys.owner(b"sk=3"), keys.owner(b"sk-4")]
    names = {tenant.name for tenant in nameless if tenant is not None}
    assert len(names) == 2
    assert all(name.startswith("key-") and "sk" not in name for name in names)
    again = load_api_keys(SecretStr("sk-4,sk-4"), None)
    assert again.owner(b"sk-4") == nameless[1]  # the name does not change with a restart


@pytest.mark.parametrize(
    "content",
    [
        "secret name=",
        "secret name=a/b",
        "secret rpm=x",
        "secret rpm=-1",
        "secret rpm=1.5",
        "secret tpm=" + "9" * 13,
        "secret foo=1",
        "secret name=a rpm",
        "secret name=a\nsecret name=b",
        "secret name=a rpm=1\nsecret2 name=a rpm=2",
    ],
)
def test_bad_names_and_limits(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ApiKeyError) as caught:
        load_api_keys(None, file)
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_keys_at_all() -> None:
    assert not load_api_keys(None, None)
    assert ApiKeys().owner(b"") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\n# a comment\n", b"good\nsecret key\n", b"\xffsecret"],
    ids=["nothing", "a comment", "a space", "not text"],
)
def test_bad_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ApiKeyError) as caught:
        load_api_keys(None, file)
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " , ", "secret\u00e9", "good,secret key", "secret\x7f"])
def test_bad_options(text: str) -> None:
    with pytest.raises(ApiKeyError) as caught:
        load_api_keys(SecretStr(text), None)
    assert "secret" not in str(caught.value)


def test_a_bad_file_ends_the_start_in_one_line(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        result = CliRunner().invoke(serve, ["--api-key-file", str(file)])
        assert result.exit_code == 3
        assert result.stderr.startswith(f"octavo: cannot read the API keys in {file}: ")
        assert result.stderr.count("\n") == 1


def test_keys_stay_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_API_KEY", "secret")
    settings = load_settings({})
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "secret"
    keys = load_api_keys(settings.api_key, None)
    shown = [repr(settings), str(settings), settings.model_dump_json(), repr(keys), str(vars(keys))]
    result = CliRunner().invoke(serve, ["--port", "x"])
    shown += [CliRunner().invoke(serve, ["--help"]).output, result.output]
    assert result.exit_code == 2
    assert not [text for text in shown if "secret" in text]


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        (["--host=0.0.0.0"], True),
        (["--host=0.0.0.0", "--api-key", "x"], False),
        (["--host=127.0.0.1"], False),
    ],
)
def test_an_open_server_is_warned_of(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, options: list[str], is_warned: bool
) -> None:
    model = str(tmp_path / "none.gguf")
    result = CliRunner().invoke(serve, [model, "--port", "0", "--offline", *options])
    assert result.exit_code == 3
    assert "none.gguf" in result.stderr
    assert ("no API key is set" in caplog.text) == is_warned


def test_the_banner_says_where_the_key_goes() -> None:
    key = '-H "Authorization: Bearer $OCTAVO_API_KEY"'
    assert key in banner("m", "here", INFO, "http://x", needs_key=True)
    assert key not in banner("m", "here", INFO, "http://x", needs_key=False)
