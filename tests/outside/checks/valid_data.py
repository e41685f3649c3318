"""A check for schemathesis: data that /openapi.json allows is refused for what no schema can say.

That is whether fields go together, and whether the model has such tokens and so long a context. A
wrong type, length, bound or name would mean that the description allows too much. JSON Schema's
integers include 1.0, which the server refuses.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def valid_data_is_refused_for_a_reason(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code != 400:
        return
    error = response.json()["error"]
    match error["code"]:
        case "invalid_value" | "context_length_exceeded":
            return
        case "integer_above_max_value" if error["param"].endswith("]"):  # a token id
            return
        case "invalid_type" if _has_whole_decimal(case.body):
            return
    raise AssertionError(f"/openapi.json allows what is refused: {error}")


def _has_whole_decimal(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_whole_decimal, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()
