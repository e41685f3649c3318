"""Typed, bounded access to a mapping that somebody else wrote: GGUF metadata or a JSON object.

Every complaint is one `CheckpointError` that names the file and the key. A value of null counts as
absent. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from engine.errors import CheckpointError

_MAX_QUOTED_CHARS = 80


def quote(value: object) -> str:
    """A value from a file, safe to print: on one line, escaped, and never long."""
    if isinstance(value, str):
        value = value[: _MAX_QUOTED_CHARS + 1]
    elif not isinstance(value, bool | int | float):
        return f"a {type(value).__name__}"
    text = ascii(value)
    return text if len(text) <= _MAX_QUOTED_CHARS else f"{text[:_MAX_QUOTED_CHARS]}..."


class Fields:
    """A mapping and the name of its file. Values are checked when they are asked for."""

    def __init__(self, source: str, values: Mapping[str, object]) -> None:
        self.source = source
        self.values = values

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, complaint: str) -> CheckpointError:
        """The error to raise for `key`; for those who check more than a type."""
        return CheckpointError(f"{self.source}: {_plain(key)} {complaint}")

    def integer(
        self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31
    ) -> int:
        """An integer in `low..high`; no default means that the key must be there."""
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"must be an integer, not {quote(value)}")
        if not low <= value <= high:
            raise self.error(key, f"must be in {low}..{high}, not {quote(value)}")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12
    ) -> float:
        """A finite number in `low..high`; no default means that the key must be there."""
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(key, f"must be a number, not {quote(value)}")
        # Compared before float(): a JSON integer may be too large for it.
        if not low <= value <= high or not math.isfinite(value):
            raise self.error(key, f"must be in {low:g}..{high:g}, not {quote(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {quote(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string that can be written as UTF-8; no default means that the key must be there."""
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {quote(value)}")
        if not _is_unicode(value):
            raise self.error(key, f"is not valid Unicode: {quote(value)}")
        return value

    def section(self, key: str) -> Fields | None:
        """A JSON object within this one, or None when it is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, not {quote(value)}")
        return Fields(f"{self.source}: {_plain(key)}", value)


def parse_json_object(data: bytes, source: str) -> Fields:
    """A JSON object from bytes whose length the caller has bounded. Repeated keys are refused."""
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except RecursionError:
        raise CheckpointError(f"{source}: the JSON is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{source}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: must be a JSON object")
    return Fields(source, value)


def read_json_object(path: Path, max_bytes: int) -> Fields:
    """The JSON object in a file. CheckpointError when it is unreadable, too large or not JSON."""
    return parse_json_object(read_bounded(path, max_bytes), str(path))


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A small regular file as bytes; never reads more than `max_bytes`."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise CheckpointError(f"{path}: larger than {max_bytes} bytes")
    return data


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated within one object")
    return values


def _plain(key: str) -> str:
    is_harmless = key.isascii() and key.isprintable() and len(key) <= _MAX_QUOTED_CHARS
    return key if is_harmless else quote(key)


def _is_unicode(text: str) -> bool:
    # JSON can spell half of a surrogate pair, which no output could encode later.
    return not any("\ud800" <= char <= "\udfff" for char in text)
