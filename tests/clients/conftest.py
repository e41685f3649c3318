from __future__ import annotations

from collections.abc import Iterator

import fault_server
import pytest
from both_faces import MakeClient
from octavo_client import AsyncClient, Client


@pytest.fixture
def server() -> Iterator[fault_server.FaultServer]:
    with fault_server.running() as server:
        yield server


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    """The class of the client: such a test runs with each of the two."""
    client_type: MakeClient = request.param
    return client_type


@pytest.fixture(autouse=True)
def no_servers_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set where the tests run is not for them."""
    for name in ("BASE_URL", "API_KEY"):
        for prefix in ("OCTAVO", "OPENAI"):
            monkeypatch.delenv(f"{prefix}_{name}", raising=False)
