"""Full disks, real ones: a small tmpfs in a mount namespace of the server's own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.real_server import command, complete, engine_pids, kill_engine, serving
from checkpoint_files import write_gguf
from hub_server import Hub
from hub_server import serving as hub_serving
from serve_process import ENVIRONMENT, ROOT, serving_unheard, wait_healthy

# $0 is the folder, what follows the command.
MOUNT = 'mount -t tmpfs -o size=1m{options} none "$0" || exit 99; '
FILL = 'cat /dev/zero > "$0/filler" 2> /dev/null; '


@pytest.mark.parametrize("options", ["", ",nr_inodes=2"])
def test_a_full_disk_under_the_cache(
    builtin_model: Path,
    tmp_path: Path,
    new_mounts: list[str],
    options: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing can be kept there: the kernels cannot be built, and the plain ones serve."""
    script = f'{MOUNT.format(options=options)}{FILL}exec "$@"'
    prefix = [*new_mounts, script, str(tmp_path)]
    with serving(builtin_model, environment={"OCTAVO_CACHE": str(tmp_path)}, prefix=prefix) as (
        _,
        url,
    ):
        assert complete(url, 4).endswith("data: [DONE]\n\n")
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "Traceback" not in said


def test_files_may_not_be_large(builtin_model: Path, tmp_path: Path) -> None:
    """As on a disk that is full, but by another error of the system's."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    with serving(builtin_model, environment={"OCTAVO_CACHE": str(tmp_path)}, limit=limit) as (
        _,
        url,
    ):
        assert complete(url, 4).endswith("data: [DONE]\n\n")


# A command whose output nobody reads any more.
UNREAD = """
import os, sys
reader, writer = os.pipe()
os.dup2(writer, 1), os.dup2(writer, 2), os.close(reader)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("redirect", "log_format"),
    [
        pytest.param("> $0/log 2>&1", "json", id="a full disk"),
        pytest.param("> /dev/full 2> /dev/full", "console", id="a full device"),
        pytest.param("<&- >&- 2>&-", "json", id="closed"),
        pytest.param("", "json", id="unread"),
    ],
)
def test_words_that_go_nowhere(
    builtin_model: Path,
    tmp_path: Path,
    new_mounts: list[str],
    redirect: str,
    log_format: str,
) -> None:
    """It serves, starts its engine again and ends as ever; no connection has a stream's number."""
    if redirect:
        script = f'{MOUNT.format(options="")}{FILL}exec "$@" {redirect}'
        prefix = [*new_mounts, script, str(tmp_path)]
    else:
        prefix = [sys.executable, "-c", UNREAD]
    words = [*prefix, *command(builtin_model, "--log-format", log_format)]
    with serving_unheard(words) as (process, url):
        assert complete(url, 4).endswith("data: [DONE]\n\n")
        [engine] = engine_pids(process)
        for number in range(3):
            for pid in (process.pid, engine):
                assert not os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:")
        kill_engine(process)
        wait_healthy(process, url)
        assert complete(url, 4).endswith("data: [DONE]\n\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


# As `sh -c PULLS FOLDER COMMAND...`: where the disk is too small, again where only the cache may be
# looked at, and once more when there is room; $WHOLE is what must have come then.
PULLS = """
mount -t tmpfs -o size=$SIZE none "$0" || exit 99
"$@" && exit 98
OCTAVO_OFFLINE=1 "$@" && exit 97
find "$0" -type f -size +8k
mount -o remount,size=16m "$0" || exit 99
path=$("$@") && cmp "$path" "$WHOLE"
"""


def test_a_disk_that_fills_during_a_pull(tmp_path: Path, new_mounts: list[str]) -> None:
    """It has room for the model, and none for what is noted of it: the last of it does not fit.
    That is one line, nothing is left that is taken for a model, and with more room it comes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    whole = write_gguf(tmp_path / "tiny.gguf")
    with hub_serving(Hub("somebody/tiny", {"tiny.gguf": whole.read_bytes()})) as hub:
        pulls = subprocess.run(
            [*new_mounts, PULLS, str(disk), sys.executable]
            + ["-m", "octavo_client", "pull", "somebody/tiny:tiny.gguf"],
            cwd=ROOT,
            env={name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
            | {"SIZE": str(whole.stat().st_size), "WHOLE": str(whole)}
            | {"HF_HOME": str(disk), "HF_ENDPOINT": hub.endpoint, "OCTAVO_CACHE": str(disk)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert pulls.returncode == 0, pulls.stderr
    assert pulls.stdout == "", "the beginning of the model was kept"
    full, absent = [line for line in pulls.stderr.splitlines() if line.startswith("octavo: ")]
    assert f"no space left in {disk}" in full
    assert "is not in" in absent
    assert "Traceback" not in pulls.stderr
