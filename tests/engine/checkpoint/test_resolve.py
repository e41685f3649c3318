"""engine/checkpoint/resolve.py: what a name means, and what is said when it means nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, serving

from engine.checkpoint import BUILTIN_MODEL, resolve_model
from engine.checkpoint.builtin import SMOLLM2
from engine.errors import CheckpointError

ROOT = Path(__file__).parents[3]


def resolve(name: str, cache_dir: Path = Path("unused"), extra_dirs: tuple[Path, ...] = ()) -> Path:
    return resolve_model(
        name,
        cache_dir=cache_dir,
        offline=True,
        on_progress=lambda phase, share: None,
        extra_dirs=extra_dirs,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder and the home, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put_builtin(cache_dir: Path) -> Path:
    """A file of the right name and size, all holes."""
    path = SMOLLM2.path_in(cache_dir)
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, SMOLLM2.member_size)
    return path


def test_the_built_in_model(here: Path) -> None:
    assert BUILTIN_MODEL == "smollm2-135m-instruct"
    path = put_builtin(here / "cache")
    assert resolve(BUILTIN_MODEL, here / "cache") == path
    assert resolve(BUILTIN_MODEL, here / "empty", (here / "cache",)) == path
    with pytest.raises(CheckpointError, match="offline"):
        resolve(BUILTIN_MODEL, here / "empty")


def test_the_built_in_name_comes_before_a_folder_of_that_name(here: Path) -> None:
    (here / BUILTIN_MODEL).mkdir()
    path = put_builtin(here / "cache")
    assert resolve(BUILTIN_MODEL, here / "cache") == path
    assert resolve(f"./{BUILTIN_MODEL}") == here / BUILTIN_MODEL


def test_paths(here: Path) -> None:
    (here / "models" / "tiny").mkdir(parents=True)
    (here / "models" / "tiny.GGUF").touch()
    for name in ["models/tiny", "./models/tiny", "~/models/tiny", str(here / "models/tiny")]:
        assert resolve(name) == here / "models" / "tiny"
    for name in ["models/tiny.GGUF", "./models/tiny.GGUF", "~/models/tiny.GGUF"]:
        assert resolve(name) == here / "models" / "tiny.GGUF"


def test_a_symbolic_link_keeps_its_name(here: Path) -> None:
    (here / "blob").touch()
    (here / "tiny.gguf").symlink_to("blob")
    assert resolve("tiny.gguf") == here / "tiny.gguf"


@pytest.mark.parametrize(
    "name",
    ["/not/there", "./not", "../not/there", "~/not", "~nobody-at-all/x", "not.gguf", "a/b.gguf"]
    + ["a/b/c", "not/", "C:\\models\\tiny", ".hidden"],
)
def test_a_path_that_is_not_there(here: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such file or folder: /.*owner/name:file\.gguf"):
        resolve(name)


@pytest.mark.parametrize(
    ("file_name", "advice"),
    [
        ("model.safetensors", "give the folder it lies in"),
        ("pytorch_model.bin", "owner/name"),
        ("gguf", "owner/name"),
    ],
)
def test_a_file_that_is_no_model(here: Path, file_name: str, advice: str) -> None:
    (here / file_name).touch()
    with pytest.raises(CheckpointError, match=rf"{here / file_name} is not a \.gguf.*{advice}"):
        resolve(file_name)


@pytest.mark.parametrize("name", ["", " ", "a\0b", "llama", "gpt-5", "a b/c", "owner/", ":x", "é"])
def test_a_name_that_means_nothing(here: Path, name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(name)
    message = str(caught.value)
    assert BUILTIN_MODEL in message
    assert "owner/name:file.gguf" in message
    assert "did you mean" not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M-Instruct", "smollm-135m", "smolm2-135m"])
def test_nearly_the_built_in_name(here: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"did you mean {BUILTIN_MODEL}?"):
        resolve(name)


def test_a_name_that_no_file_system_takes(here: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot look for"):
        resolve("x" * 5000)


def test_the_colon_wants_a_gguf_file(here: Path) -> None:
    with pytest.raises(CheckpointError, match=r"owner/name:Q4_0: after the colon"):
        resolve("owner/name:Q4_0")


RESOLVE = """
import json, pathlib, sys
from engine.checkpoint import resolve_model
names, offline = json.loads(sys.argv[1])
for name in names:
    print(resolve_model(
        name, cache_dir=pathlib.Path("unused"), offline=offline,
        on_progress=lambda phase, share: None,
    ))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """Another process, for what Hugging Face's library reads when it is imported."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout


def test_hub_ids_go_to_the_hub_and_its_cache(tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "small/tiny.gguf": b"GGUF",
    }
    names = ["some.body/tiny_model-1.0", "some.body/tiny_model-1.0:small/tiny.gguf"]
    with serving(Hub(names[0], files)) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path)}
        lines = run(RESOLVE, json.dumps([names, False]), **environment).splitlines()
    folder, path = map(Path, lines)
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors"}
    assert path.read_bytes() == b"GGUF"
    assert folder.is_relative_to(tmp_path / "hub")
    assert run(RESOLVE, json.dumps([names, True]), **environment).splitlines() == lines


def test_importing_and_paths_leave_the_hub_library_out(tmp_path: Path) -> None:
    loaded = run(
        "import pathlib, sys\n"
        "from engine.checkpoint import resolve_model\n"
        "resolve_model(sys.argv[1], cache_dir=pathlib.Path('unused'), offline=False,"
        " on_progress=print)\n"
        "print(*sys.modules)",
        str(tmp_path),
    ).split()
    assert "engine.checkpoint.resolve" in loaded
    assert not {"huggingface_hub", "torch", "requests", "httpx", "httpx2"} & set(loaded)
