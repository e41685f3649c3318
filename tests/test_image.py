"""What Dockerfile, .dockerignore and compose.yaml promise, as far as their text shows it.

Whether the image builds and runs takes a container engine: docs/deployment.md.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from server.settings import Settings

ROOT = Path(__file__).parent.parent
# A line that ends in a backslash goes on; comments and empty lines are nothing.
LINES = [
    line
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    if line and not line.startswith("#")
]
LAST_STAGE = LINES[[line.startswith("FROM") for line in LINES].index(True, 2) :]


def arguments(instruction: str, lines: list[str] = LAST_STAGE) -> list[str]:
    """What follows each `instruction`, in order."""
    return [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == instruction]


def environment() -> dict[str, str]:
    pairs = [pair for text in arguments("ENV") for pair in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)


def is_ignored(path: str) -> bool:
    """As Docker reads .dockerignore: the last pattern that matches `path` or a parent decides."""
    parts = Path(path).parts
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern.startswith("**/"):
            matches = any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        else:
            matches = fnmatch("/".join(parts[: pattern.count("/") + 1]), pattern)
        if matches:
            ignored = pattern == line
    return ignored


def test_two_stages_from_one_pinned_image() -> None:
    assert arguments("FROM", LINES) == [
        "python:${PYTHON_VERSION}-slim AS build",
        "python:${PYTHON_VERSION}-slim",
    ]
    defaults = dict(text.split("=", 1) for text in arguments("ARG", LINES))
    assert re.fullmatch(r"3\.\d+", defaults["PYTHON_VERSION"])
    assert defaults["TORCH_INDEX_URL"] == ""


def test_torch_is_a_release_that_the_project_allows() -> None:
    [pinned] = [text for text in arguments("ARG", LINES) if text.startswith("TORCH=")]
    release = pinned.removeprefix("TORCH=torch==")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [allowed] = [line for line in project["dependencies"] if line.startswith("torch")]
    low, high = re.fullmatch(r"torch>=([\d.]+),<([\d.]+)", allowed).groups()
    assert _numbers(low) <= _numbers(release) < _numbers(high)


def test_it_does_not_run_as_root() -> None:
    [user] = arguments("USER")
    assert user == "1000:0"
    assert LAST_STAGE.index(f"USER {user}") < LAST_STAGE.index('ENTRYPOINT ["octavo", "serve"]')


def test_it_hears_signals() -> None:
    """In exec form there is no shell between the engine and us."""
    [entry_point] = arguments("ENTRYPOINT")
    assert json.loads(entry_point) == ["octavo", "serve"]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    assert arguments("CMD") == []


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_health_check_asks_the_server(status: int, exit_code: int) -> None:
    [text] = arguments("HEALTHCHECK")
    assert "--start-period=" in text
    python, *command = json.loads(text.partition("CMD ")[2])
    assert python == "python"
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        port = {"OCTAVO_PORT": str(server.server_port)}
        run = subprocess.run([sys.executable, *command], env=os.environ | port, timeout=60)
        thread.join()
    assert run.returncode == exit_code
    assert paths == ["/health"]


def test_settings_in_the_environment_are_settings() -> None:
    variables = environment()
    names = {name.removeprefix("OCTAVO_").lower() for name in variables if "OCTAVO" in name}
    assert {"host", "port", "cache", "model_dirs"} == names
    assert names - {"cache"} <= Settings.model_fields.keys()
    assert variables["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_only_the_cache_is_written_to_and_does_not_hide_the_model() -> None:
    variables = environment()
    assert arguments("VOLUME") == ["/cache"]
    for name in ("OCTAVO_CACHE", "HF_HOME", "TRITON_CACHE_DIR"):
        assert Path(variables[name]).is_relative_to("/cache")
    baked = variables["OCTAVO_MODEL_DIRS"]
    assert not Path(baked).is_relative_to("/cache")
    assert any(f"octavo pull --cache-dir {baked}" in line for line in arguments("RUN", LINES))
    assert f"--from=build {baked} {baked}" in arguments("COPY")


def test_what_is_copied_exists_and_is_sent() -> None:
    sources = [
        source
        for text in arguments("COPY", LINES)
        if "--from" not in text
        for source in text.split()[:-1]
    ]
    assert "server/" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not is_ignored(source.rstrip("/")), source
    for needed in ("engine/core.py", "clients/python/octavo_client/py.typed"):
        assert not is_ignored(needed)


def test_dependencies_are_installed_before_sources_are_copied() -> None:
    def first(text: str) -> int:
        return next(i for i, line in enumerate(LINES) if text in line)

    assert first("COPY deploy/") < first("-r deploy/requirements.lock") < first("ARG TORCH=")
    assert first('"$TORCH"') < first("COPY engine/") < first("octavo pull")
    assert first("build /opt/octavo/venv") < first("build /opt/octavo/app")


def test_nothing_is_installed_that_is_not_locked_but_torch() -> None:
    """torch may not replace what is locked, and the packages together are what each asks for."""
    commands = [
        command
        for line in arguments("RUN", LINES)
        for command in line.split("&&")
        if "pip install" in command or "pip download" in command or "pip wheel" in command
    ]
    [torch] = [command for command in commands if '"$TORCH"' in command]
    assert "--only-binary :all: --constraint locked.txt" in " ".join(torch.split())
    [ours] = [command for command in commands if "/opt/octavo/app" in command]
    assert "--no-deps --no-build-isolation" in ours
    locked = [command for command in commands if command not in (torch, ours)]
    assert len(locked) == 2
    for command in locked:
        assert "--require-hashes --only-binary :all: -r deploy/" in command
        assert command.count("-r ") == 1
    assert "python -m pip check" in arguments("RUN", LINES)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".env",
        "server/.env",
        "engine/__pycache__/core.cpython-312.pyc",
        "clients/python/.venv/bin/python",
        "tests/test_image.py",
        "deploy/grafana/octavo.json",
        "Dockerfile",
    ],
)
def test_what_stays_out(path: str) -> None:
    assert is_ignored(path)


def test_labels() -> None:
    [text] = arguments("LABEL")
    labels = dict(pair.split("=", 1) for pair in shlex.split(text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == project["version"]
    assert labels[f"{prefix}licenses"] == project["license"]
    assert labels[f"{prefix}title"] == "Octavo"


def test_cpu_kernels_are_compiled_ahead_where_the_server_finds_them() -> None:
    """After the compiler and the sources, and not from the folder whose sources are not kept."""
    [compile_ahead] = [i for i, line in enumerate(LINES) if "python -m engine.kernels.cpu" in line]
    assert LINES[compile_ahead] == "RUN cd / && python -m engine.kernels.cpu"
    before = LINES[:compile_ahead]
    assert any("apt-get install --yes --no-install-recommends g++" in line for line in before)
    assert any("--target /opt/octavo/app . " in line for line in before)
    assert compile_ahead < LINES.index(LAST_STAGE[0], 1)
    assert "--from=build /opt/octavo/app /opt/octavo/app" in arguments("COPY")
    assert is_ignored("engine/kernels/cpu/compiled/x86-64.so")  # one of another machine's


def test_a_compiler_when_the_server_runs_is_for_gpus() -> None:
    """For Triton; the package g++ brings gcc and the headers of libc."""
    assert "COMPILER=" in arguments("ARG")
    [text] = [line for line in arguments("RUN") if "COMPILER" in line]
    assert "--no-install-recommends $COMPILER" in text
    assert "rm -rf /var/lib/apt/lists/*" in text
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["octavo-gpu"]["build"]["args"]["COMPILER"] == "g++"
    assert "COMPILER" not in services["octavo-cpu"]["build"]["args"]


def test_compose() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    assert {tuple(service["profiles"]) for service in services.values()} == {("cpu",), ("gpu",)}
    arguments_known = {text.split("=")[0] for text in arguments("ARG", LINES)}
    for service in services.values():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_timeout
        assert service["ports"][0].startswith("${OCTAVO_PUBLISH:-127.0.0.1:")
        assert service["build"]["args"].keys() <= arguments_known
        assert service["volumes"] == ["octavo-cache:/cache"]
        assert service["environment"]["OCTAVO_API_KEY"] is None, "as it is set outside, or not"
        tag = service["image"].rpartition(":")[2]
        assert tag not in ("", "latest")
    cpu, gpu = services["octavo-cpu"], services["octavo-gpu"]
    assert cpu["build"]["args"] != gpu["build"]["args"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]
