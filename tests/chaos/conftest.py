"""What the tests of faults share: all take long, and real children find the fakes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(autouse=True)
def child_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a child process find its module."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@pytest.fixture(scope="session")
def new_mounts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command for a shell script, what is $0 in it and a command, that may mount things which
    nobody else sees."""
    folder = str(tmp_path_factory.mktemp("mount"))
    for flags in ("-m", "-rm"):  # where root may not, everybody may who may be root of a namespace
        prefix = ["unshare", flags, "sh", "-c"]
        trial = subprocess.run(
            [*prefix, 'mount -t tmpfs none "$0"', folder], capture_output=True, check=False
        )
        if trial.returncode == 0:
            return prefix
    pytest.skip("nothing can be mounted here")
