from __future__ import annotations

from collections.abc import Iterator

import fault_server
import pytest


@pytest.fixture
def server() -> Iterator[fault_server.FaultServer]:
    with fault_server.running() as server:
        yield server
