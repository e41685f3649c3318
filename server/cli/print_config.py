"""`octavo serve --print-config`: every setting with who set it, as a file that --config takes.

Secrets are never written, and what is left to the engine stays a comment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from server.settings import Settings


def config_text(settings: Settings, origins: Mapping[str, str]) -> str:
    """TOML. `origins` says for each setting where its value comes from."""
    lines = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            line = f"# {name} is set and not shown"
        elif value is None:
            line = f"# {name} is not set"
        else:
            line = f"{name} = {_toml(value)}"
        lines.append((line, origins[name]))
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:<{width}}  # {origin}" for line, origin in lines)


def _toml(value: object) -> str:
    """Strings, numbers and booleans are written in TOML as in JSON."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))  # a ByteSize too
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
