"""server/tenants.py: whose request it is where there are no keys, also behind a proxy."""

from __future__ import annotations

import logging

import pytest
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server.tenants import tenant_of


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        # As a proxy passes on what a client has made up: all these are one.
        ("unknown", ""),
        ("a" * 30_000, ""),
        (f"fe80::1%{'a' * 30_000}", "fe80::/64"),
    ],
)
def test_the_tenant_is_an_address(host: str, name: str) -> None:
    assert tenant_of({"client": (host, 4711)}).name == name


def test_a_client_that_is_not_told() -> None:
    assert tenant_of({"client": None}).name == tenant_of({}).name == ""


async def test_what_is_no_address_comes_neither_to_the_engine_nor_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A proxy on this machine is believed, and may pass on what a client has made up."""
    caplog.set_level(logging.INFO, "octavo.request")
    hosts = ["192.0.2.1, 192.0.2.2", "a" * 30_000, '"}\tforged', "", "fe80::1%evil"]
    engine = FakeEngine()
    async with live_app(engine) as client:
        for host in hosts:
            body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1}
            headers = {"X-Forwarded-For": host}
            response = await client.post("/v1/completions", json=body, headers=headers)
            assert response.status_code == 200
    names = [request.tenant for request in engine.requests]
    assert names == ["192.0.2.2", "", "", "127.0.0.1", "fe80::/64"]
    lines = [vars(record) for record in caplog.records if record.name == "octavo.request"]
    shown = [line["fields"]["client"] for line in lines]
    assert shown == ["192.0.2.2", None, None, "127.0.0.1", "fe80::1"]
