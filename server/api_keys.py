"""The API keys of this server: where they come from, and whose a given one is.

Only digests are kept, so that no key can come out again in a log, an error or a debugger.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from engine import OctavoError
from server.tenants import Tenant

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}
_MAX_LIMIT_DIGITS = 12


class ApiKeyError(OctavoError):
    """The operator's keys cannot be read or used."""


class ApiKeys:
    """Digests of keys, and whose each is. Empty means that the API is open."""

    def __init__(self, owners: Iterable[tuple[bytes, Tenant]] = ()) -> None:
        self._owners = tuple(owners)

    def __len__(self) -> int:
        return len(self._owners)

    def __repr__(self) -> str:
        return f"<{len(self)} API keys>"

    def owner(self, key: bytes) -> Tenant | None:
        """Whose key it is, None if nobody's. Takes the same time for every key of its length."""
        digest = _digest(key)
        found = None
        for known, tenant in self._owners:  # all of them, whatever was found
            found = tenant if hmac.compare_digest(digest, known) else found
        return found


def load_api_keys(api_key: SecretStr | None, file: Path | None) -> ApiKeys:
    """The keys of these two settings together. Raises ApiKeyError, which never has a key in it."""
    owners: dict[bytes, Tenant] = {}
    if api_key is not None:
        _add(owners, api_key.get_secret_value().split(","), "--api-key")
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise ApiKeyError(f"cannot read the API keys in {file}: {reason}.") from None
        lines = [line for line in lines if not line.lstrip().startswith("#")]
        _add(owners, lines, str(file))
    return ApiKeys(owners.items())


def _add(owners: dict[bytes, Tenant], texts: list[str], source: str) -> None:
    """Add the keys of one source: `KEY`, perhaps followed by `name=`, `rpm=` and `tpm=`."""
    entries = [text.split() for text in texts if text.strip()]
    if not entries:
        raise ApiKeyError(f"there is no API key in {source}; leave it out for an open server.")
    for position, (key, *words) in enumerate(entries, 1):
        where = f"key {position} of {source}"
        if not all("!" <= character <= "~" for character in key) or any(
            "=" not in word for word in words
        ):
            raise ApiKeyError(
                f"{where} has a space or a character outside of ASCII in it, which clients cannot "
                "send."
            )
        digest = _digest(key.encode())
        tenant = _tenant(digest, words, where)
        if owners.get(digest, tenant) != tenant:
            raise ApiKeyError(f"{where} was there before, under another name or with other limits.")
        for other in owners.values():
            if other.name == tenant.name and other != tenant:
                raise ApiKeyError(
                    f"{where} has the name {tenant.name!r} of an earlier one, but other limits."
                )
        owners[digest] = tenant


def _tenant(digest: bytes, words: list[str], where: str) -> Tenant:
    """Who holds a key. Without a name the key gets one of which it cannot be told."""
    name = "key-" + hashlib.sha256(b"octavo key name" + digest).hexdigest()[:12]
    limits: dict[str, int] = {}
    for word in words:
        option, _, value = word.partition("=")
        if option == "name" and _NAME.fullmatch(value):
            name = value
        elif option in _LIMITS and value.isdecimal() and len(value) <= _MAX_LIMIT_DIGITS:
            limits[_LIMITS[option]] = int(value)
        else:
            raise ApiKeyError(
                f"what follows {where} is not right: only name=NAME (letters, digits, '.', '_', "
                "'-'), rpm=NUMBER and tpm=NUMBER may."
            )
    return Tenant(name, has_key=True, **limits)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
