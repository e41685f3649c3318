"""deploy/*.lock, which `make lock` makes and the container image is built from: each pin has its
hashes, and pyproject.toml, torch and the locks agree.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECTS = [
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    for folder in (".", "clients/python")
]
LOCKS = ["requirements.lock", "build.lock"]
# What an image may be: the marker variables that the locks' lines depend on.
MACHINES = [
    {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "extra": "",
    }
    for version in ("3.11", "3.12", "3.13", "3.14")
    for machine in ("x86_64", "aarch64")
]


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each pin of `lock` with its hashes. Raises ValueError for any other line, such as options."""
    text = (ROOT / "deploy" / lock).read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    pairs = [re.split(r"\s+--hash=", line) for line in lines]
    return [(Requirement(pin), hashes) for pin, *hashes in pairs]


def pins(lock: str, machine: dict[str, str]) -> dict[str, str]:
    """The version of each package that `lock` has installed on `machine`."""
    chosen = [
        requirement
        for requirement, _ in entries(lock)
        if requirement.marker is None or requirement.marker.evaluate(machine)
    ]
    versions = {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in chosen
    }
    assert len(versions) == len(chosen), "a package is there twice"
    return versions


def disagreements(lock: str, asked_for: list[str]) -> list[str]:
    wrong = []
    for machine in MACHINES:
        locked = pins(lock, machine)
        for requirement in map(Requirement, asked_for):
            if requirement.marker is None or requirement.marker.evaluate(machine):
                version = locked.get(canonicalize_name(requirement.name), "missing")
                if version == "missing" or version not in requirement.specifier:
                    wrong.append(f"{requirement}: {version}")
    return wrong


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_has_hashes(lock: str) -> None:
    assert len(entries(lock)) > 5
    for requirement, hashes in entries(lock):
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, requirement
        for digest in hashes:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest), requirement


def test_all_that_runs_is_locked_but_torch() -> None:
    asked_for = [line for project in PROJECTS for line in project["project"]["dependencies"]]
    [torch] = [line for line in asked_for if line.startswith("torch")]
    asked_for.remove(torch)
    assert not disagreements("requirements.lock", asked_for), "run `make lock`"


def test_what_builds_is_locked() -> None:
    asked_for = [line for project in PROJECTS for line in project["build-system"]["requires"]]
    assert not disagreements("build.lock", asked_for), "run `make lock`"


def test_what_torch_needs_is_locked_but_its_libraries_for_gpus() -> None:
    for_gpus = re.compile(r"torch$|triton|nvidia-|cuda-")
    for machine in MACHINES:
        assert not [name for name in pins("requirements.lock", machine) if for_gpus.match(name)]
    asked_for = [line for line in requires("torch") or [] if not for_gpus.match(line)]
    assert any(line.startswith("sympy") for line in asked_for)
    assert not disagreements("requirements.lock", asked_for), "run `make lock`"
