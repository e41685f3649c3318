"""Which heads are sound: Host and the framing of the body."""

from __future__ import annotations

import pytest

from server.wire.errors import ApiError
from server.wire.head import check_head

HOST = (b"host", b"example.org")


@pytest.mark.parametrize(
    "host",
    [
        b"example.org",
        b"EXAMPLE.org:80",
        b"my_service.local:8000",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[2001:db8::1]:8000",
        b"xn--mnchen-3ya.de",
        b"a%20b",
        b"localhost:",
    ],
)
def test_good_hosts(host: bytes) -> None:
    check_head("1.1", [(b"host", host)])


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"x/health?",
        b"x/",
        b"x?y",
        b"x#y",
        b"user@x",
        b"user:password@x",
        b"a b",
        b"x:80:80",
        b"x:http",
        b":80",
        b"::1",
        b"[::1",
        b"[x]",
        b"[]",
        b"x\\y",
        b"http://x",
        b"b\xc3\xa4r.de",
        b"x\n",
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_bad_hosts(host: bytes, version: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_head(version, [(b"host", host)])
    assert caught.value.status == 400


def test_number_of_hosts() -> None:
    check_head("1.0", [])
    for version, headers in (("1.1", []), ("1.1", [HOST, HOST]), ("1.0", [HOST, HOST])):
        with pytest.raises(ApiError):
            check_head(version, headers)


def test_framing() -> None:
    check_head("1.1", [HOST, (b"transfer-encoding", b"Chunked")])
    check_head("1.1", [HOST, (b"content-length", b"5")])
    for codings in ([b"gzip, chunked"], [b"identity"], [b"chunked", b"chunked"], [b""], [b"x"]):
        with pytest.raises(ApiError):
            check_head("1.1", [HOST, *((b"transfer-encoding", coding) for coding in codings)])
    both = [HOST, (b"content-length", b"5"), (b"transfer-encoding", b"chunked")]
    for version, headers in (("1.1", both), ("1.0", [HOST, both[2]]), ("2.0", [HOST])):
        with pytest.raises(ApiError):
            check_head(version, headers)
