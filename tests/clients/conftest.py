from __future__ import annotations

import signal
from collections.abc import Iterator

import fault_server
import pytest
from both_faces import MakeClient
from octavo_client import AsyncClient, Client

# Where the tests run in the background, interrupts are ignored, and the processes that tests start
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
