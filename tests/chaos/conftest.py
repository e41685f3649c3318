"""What the tests of faults share: all take long, and real children find the fakes."""

from __future__ import annotations

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
