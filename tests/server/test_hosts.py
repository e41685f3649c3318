"""Names in Host headers: which are answered, by where the server listens and what it was told."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine
from live_app import live_app
from pydantic import ValidationError
from raw_http import connect

from server.cli.serve import serve
from server.hosts import ANY_HOST, AllowedHosts, allowed_hosts, parse_hosts
from server.settings import Settings, load_settings

THIS_MACHINE = [
    "localhost",
    "localhost:8000",
    "LocalHost:8000",
    "localhost.",
    "LOCALHOST.:1",
    "my-app.localhost:8000",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.1.2.3:8000",
    "127.1:8000",
    "[::1]",
    "[::1]:8000",
    "[::ffff:127.0.0.1]:8000",
    "0.0.0.0:8000",
    "localhost:",
]
# Addresses cannot be made to point elsewhere; a proxy or a forwarded port may be asked by one.
OTHER_ADDRESSES = ["192.168.1.5:8000", "10.0.0.1", "[fe80::1]:8000"]
OTHERS = [
    "evil.example",
    "evil.example:8000",
    "EVIL.example.:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8000",
    "evil-localhost",
    "evillocalhost:8000",
    "localhost..",
    ".localhost.evil",
    "localhost%2eevil.example",
    "1.evil",
    "a",
    "x_y",
]


async def status_of(hosts: AllowedHosts, names: list[str]) -> list[int]:
    """How each of these Host headers is answered."""
    statuses = []
    async with live_app(FakeEngine(), hosts=hosts) as client:
        for name in names:
            async with connect(client) as connection:
                connection.send(b"GET /v1/models HTTP/1.1\r\nHost: %s\r\n\r\n" % name.encode())
                answer = await connection.answer()
                statuses.append(answer.status)
                if answer.status != 200:
                    assert answer.error()["code"] == "host_not_allowed"
                    assert "--allowed-hosts" in answer.error()["message"]
                    assert answer.headers["connection"] == "close"
                    assert await connection.rest() == b""
        # HTTP/1.0 without a Host is no browser's.
        async with connect(client) as connection:
            connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
            assert (await connection.answer()).status == 200
    return statuses


def bound_to(host: str, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family)
    sock.bind((host, 0))
    return sock


async def test_on_the_loopback_address_it_is_this_machine() -> None:
    with bound_to("127.0.0.1") as sock:
        hosts = allowed_hosts((), "127.0.0.1", sock)
    names = THIS_MACHINE + OTHER_ADDRESSES
    assert await status_of(hosts, names) == [200] * len(names)
    assert await status_of(hosts, OTHERS) == [421] * len(OTHERS)


async def test_names_of_the_operator_come_on_top() -> None:
    wanted = tuple(parse_hosts("api.example.com, *.Internal.example ,single."))
    with bound_to("127.0.0.1") as sock:
        hosts = allowed_hosts(wanted, "127.0.0.1", sock)
    good = [
        *("api.example.com", "API.example.COM.:8443", "a.internal.example"),
        *("a.b.internal.example:80", "single", "single.:80", *THIS_MACHINE),
    ]
    bad = ["example.com", "x.api.example.com", "internal.example", "xinternal.example", *OTHERS]
    assert await status_of(hosts, good) == [200] * len(good)
    assert await status_of(hosts, bad) == [421] * len(bad)


async def test_elsewhere_it_is_any_name_until_the_operator_says() -> None:
    with bound_to("0.0.0.0") as sock:  # noqa: S104 - as in a container
        assert allowed_hosts((), "0.0.0.0", sock) is ANY_HOST  # noqa: S104
        some = allowed_hosts(("api.example.com",), "0.0.0.0", sock)  # noqa: S104
        anyone = allowed_hosts(("*",), "0.0.0.0", sock)  # noqa: S104
    # Probes ask by the container's address, its health check by the loopback one.
    names = ["api.example.com", "10.1.2.3:8000", "127.0.0.1:8000", "evil.example"]
    assert await status_of(some, names) == [200, 200, 200, 421]
    assert await status_of(anyone, names) == [200] * 4


def test_the_name_that_was_listened_on_is_one_of_them() -> None:
    with bound_to("127.0.0.1") as sock:
        hosts = allowed_hosts((), "My-Machine.test", sock)
    assert hosts.allows(b"my-machine.test:8000")
    assert not hosts.allows(b"other.test")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_the_loopback_address_of_ipv6() -> None:
    try:
        sock = bound_to("::1", socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6")
    with sock:
        hosts = allowed_hosts((), "::1", sock)
    assert hosts.allows(b"[::1]:8000")
    assert hosts.allows(b"localhost")
    assert not hosts.allows(b"evil.example")


def test_names_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().allowed_hosts == ()
    assert load_settings({"allowed_hosts": "A.example,*.b.example."}).allowed_hosts == (
        "a.example",
        "*.b.example.",
    )
    monkeypatch.setenv("OCTAVO_ALLOWED_HOSTS", "*")
    assert load_settings({}).allowed_hosts == ("*",)
    monkeypatch.setenv("OCTAVO_ALLOWED_HOSTS", "")
    assert load_settings({}).allowed_hosts == ()


@pytest.mark.parametrize(
    "text",
    ["http://a.example", "a.example:80", "a b", "*.", "**", "*.*.example", "a..b", ".a", "[::1]"],
)
def test_what_is_no_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValidationError):
        load_settings({"allowed_hosts": text})
    result = CliRunner().invoke(serve, ["--allowed-hosts", text])
    assert result.exit_code == 2
    assert f"--allowed-hosts: {text!r} is not a host name." in result.output
    assert "Traceback" not in result.output
