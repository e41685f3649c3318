"""The API keys of this server: where they come from, and whether a given one is among them.

Only digests are kept, so that no key can come out again in a log, an error or a debugger.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from engine import OctavoError


class ApiKeyError(OctavoError):
    """The operator's keys cannot be read or used."""


class ApiKeys:
    """A set of keys. Empty means that the API is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple({_digest(key.encode()) for key in keys})

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self)} API keys>"

    def accept(self, key: bytes) -> bool:
        """Whether `key` is one of them. Takes the same time for every key of its length."""
        digest = _digest(key)
        is_known = False
        for known in self._digests:  # all of them, whatever was found
            is_known |= hmac.compare_digest(digest, known)
        return is_known


def load_api_keys(api_key: SecretStr | None, file: Path | None) -> ApiKeys:
    """The keys of these two settings together. Raises ApiKeyError, which never has a key in it."""
    keys: list[str] = []
    if api_key is not None:
        keys += _checked(api_key.get_secret_value().split(","), "--api-key")
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise ApiKeyError(f"cannot read the API keys in {file}: {reason}.") from None
        keys += _checked([line for line in lines if not line.lstrip().startswith("#")], str(file))
    return ApiKeys(keys)


def _checked(texts: list[str], source: str) -> list[str]:
    keys = [text.strip() for text in texts if text.strip()]
    if not keys:
        raise ApiKeyError(f"there is no API key in {source}; leave it out for an open server.")
    for position, key in enumerate(keys, 1):
        if not all("!" <= character <= "~" for character in key):
            raise ApiKeyError(
                f"key {position} of {source} has a space or a character outside of ASCII in it, "
                "which clients cannot send."
            )
    return keys


def key_name(key: bytes) -> str:
    """What a key is called in the log: the same each time, and nothing the key could be told of."""
    return "key-" + hashlib.sha256(b"octavo key name" + _digest(key)).hexdigest()[:12]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
