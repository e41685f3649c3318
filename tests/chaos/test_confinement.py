"""A root that cannot be written to, a user whom nobody knows, no network, no home, odd names."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from chaos.real_server import command, complete, engine_pids, failed_start, serving
from serve_process import wait_healthy

# Everything is read-only but a cache, and the user has no name: as OpenShift runs images. $0 is a
# folder, what follows the command. What is in somebody's home may be read: the interpreter may be
# there.
LOCKED_DOWN = r"""
mount -t tmpfs none "$0" && mkdir -m 777 "$0/cache" || exit 99
while read -r _ place _; do
  case "$place" in
    "$0"|/proc*|/sys*|/dev*) ;;
    *) mount -o remount,bind,ro "$place" || exit 98 ;;
  esac
done < /proc/self/mounts
umount -l /dev/shm
! touch /tmp/file 2> /dev/null || exit 97
only="-all,+dac_read_search"
exec setpriv --reuid 123456 --regid 0 --clear-groups --no-new-privs --inh-caps="$only" \
  --ambient-caps="$only" --bounding-set="$only" env -u HOME "$@"
"""


@pytest.mark.skipif(os.getuid() != 0, reason="another user's number can be taken by root only")
def test_a_read_only_root_and_a_user_without_a_name(
    builtin_model: Path, new_mounts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # unlike pytest's, which are their user's alone
        prefix = [*new_mounts, LOCKED_DOWN, folder]
        environment = {"OCTAVO_CACHE": f"{folder}/cache"}
        with serving(builtin_model, prefix=prefix, environment=environment) as (_, url):
            assert complete(url, 4).endswith("data: [DONE]\n\n")
    said = capsys.readouterr().err
    assert "C++ (" in said, "the kernels were compiled into the cache"
    assert "rror" not in said


def test_names_that_are_not_ascii(builtin_model: Path, tmp_path: Path) -> None:
    """In a system that says it knows ASCII only."""
    path = tmp_path / "mødell 模型.gguf"
    path.symlink_to(builtin_model)
    variables = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "OCTAVO_CACHE": str(tmp_path / "çache")}
    with serving(path, environment=variables) as (_, url):
        assert complete(url, 4).endswith("data: [DONE]\n\n")


def test_a_name_that_is_no_text(builtin_model: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"mod\xe8le.gguf")
    path.symlink_to(builtin_model)
    line = failed_start(command(path))
    assert "mod\\udce8le.gguf' is no name in UTF-8; rename it" in line


def test_nowhere_to_put_temporary_files(builtin_model: Path, tmp_path: Path) -> None:
    environment = {"TMPDIR": "/nonexistent", "OCTAVO_CACHE": str(tmp_path)}
    with serving(builtin_model, environment=environment) as (_, url):
        assert complete(url, 4).endswith("data: [DONE]\n\n")
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1


# What a process ignores, those that it starts ignore too.
DEAF = """
import os, signal, sys
for sig in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
    signal.signal(sig, signal.SIG_IGN)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_started_by_a_process_that_ignores_signals(builtin_model: Path) -> None:
    """How the engine ended is known all the same, and an interrupt ends the server."""
    with serving(builtin_model, prefix=[sys.executable, "-c", DEAF]) as (process, url):
        [engine] = engine_pids(process)
        os.kill(engine, signal.SIGKILL)
        assert process.stderr is not None
        line = next(line for line in process.stderr if "stopped unexpectedly" in line)
        assert "killed by signal 9" in line
        wait_healthy(process, url)
        assert complete(url, 4).endswith("data: [DONE]\n\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
