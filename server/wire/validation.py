"""Pydantic's findings in OpenAI's words: one error that has the first one's parameter and code."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.wire.errors import ApiError, BadRequest, bad_request
from server.wire.limits import (
    MAX_ECHOED_CHARACTERS,
    MAX_ECHOED_NAME,
    MAX_NAMES,
    MAX_REPORTED_PROBLEMS,
)

_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "string_type": "a string",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
# pydantic's type -> the limit's name in its context, and how the value should stand to it
_BOUNDS = {
    "greater_than_equal": ("ge", ">="),
    "greater_than": ("gt", ">"),
    "less_than_equal": ("le", "<="),
    "less_than": ("lt", "<"),
}


def json_type(value: object) -> str:
    """How a parsed JSON value is called in a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def not_json(reason: str) -> ApiError:
    """`reason` is a parser's; of that only the place is told."""
    place = re.search(r"line (\d+) column (\d+)", reason)
    where = f", see line {place[1]}, column {place[2]}" if place else ""
    return bad_request(
        None,
        None,
        f"We could not parse the JSON body of your request: it is not valid JSON in UTF-8{where}.",
    )


def wrong_type(param: str, expected: str, value: object) -> ApiError:
    return bad_request(
        param,
        "invalid_type",
        f"Invalid type for '{param}': expected {expected}, but got {json_type(value)} instead.",
    )


def out_of_bounds(param: str, relation: str, limit: float, value: float) -> ApiError:
    """`relation` is what the value should be to the limit: ">=", ">", "<=" or "<"."""
    kind = "integer" if isinstance(limit, int) else "decimal"
    side, end = ("below", "min") if ">" in relation else ("above", "max")
    return bad_request(
        param,
        f"{kind}_{side}_{end}_value",
        f"Invalid '{param}': {kind} {side} {end}imum value. "
        f"Expected a value {relation} {_number(limit)}, but got {_number(value)} instead.",
    )


def too_many(param: str, max_length: int, length: int) -> ApiError:
    return bad_request(
        param,
        "array_above_max_length",
        f"Invalid '{param}': array too long. Expected an array with maximum length "
        f"{max_length}, but got an array with length {length} instead.",
    )


def too_many_properties(param: str, max_length: int, length: int) -> BadRequest:
    return bad_request(
        param,
        "object_above_max_properties",
        f"Invalid '{param}': too many entries. Expected at most {max_length}, "
        f"but got {length} instead.",
    )


def too_long(param: str, max_length: int, length: int) -> ApiError:
    return bad_request(
        param,
        "string_above_max_length",
        f"Invalid '{param}': string too long. Expected a string with maximum length "
        f"{max_length}, but got a string with length {length} instead.",
    )


def empty_string(param: str) -> ApiError:
    return bad_request(
        param,
        "string_below_min_length",
        f"Invalid '{param}': string too short. Expected a string with minimum length 1, "
        "but got an empty string instead.",
    )


def empty_array(param: str) -> ApiError:
    return bad_request(
        param,
        "empty_array",
        f"Invalid '{param}': empty array. Expected an array with minimum length 1, "
        "but got an empty array instead.",
    )


def from_validation_error(exc: ValidationError) -> ApiError:
    """What `exc` found, as far as that can be read at a glance."""
    errors = exc.errors(include_url=False)
    findings = [_finding(error) for error in errors[:MAX_REPORTED_PROBLEMS]]
    first = findings[0]
    if len(findings) == 1:
        return first
    messages = [finding.message.removesuffix(".") for finding in findings]
    if len(errors) > len(findings):
        messages.append(f"and {len(errors) - len(findings)} more")
    return bad_request(first.param, first.code, f"{'; '.join(messages)}.")


def _finding(error: ErrorDetails) -> ApiError:
    kind, param, value = error["type"], _param(error["loc"]), error["input"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "value_error" and isinstance(context["error"], BadRequest):
        ours = context["error"]  # raised by one of our own validators
        # A copy: raised itself, it would lead back to pydantic's error, which holds it. The garbage
        # collector does not see that circle, and the request would be kept for ever.
        return bad_request(ours.param, ours.code, ours.message)
    if kind == "json_invalid":
        return not_json(context["error"])
    if not param:
        return bad_request(
            None,
            "invalid_type",
            f"The body of the request must be a JSON object, but it is {json_type(value)}.",
        )
    if kind == "missing":
        return _missing(param, value)
    if kind in _EXPECTED:
        return wrong_type(param, _EXPECTED[kind], value)
    if kind in _BOUNDS:
        limit, relation = _BOUNDS[kind]
        return out_of_bounds(param, relation, context[limit], value)
    if kind == "string_too_long":
        return too_long(param, context["max_length"], len(value))
    if kind == "string_too_short":
        return empty_string(param)
    if kind == "too_short":
        return empty_array(param)
    if kind == "too_long":
        return too_many(param, context["max_length"], context["actual_length"])
    if kind == "too_many_properties":
        return too_many_properties(param, MAX_NAMES, context["length"])
    if kind == "literal_error":
        why = f"expected {context['expected']}"
        return bad_request(param, "invalid_value", f"Invalid '{param}': {why}.")
    if kind == "extra_forbidden":
        why = "there is no such parameter"
        return bad_request(param, "unknown_parameter", f"Invalid '{param}': {why}.")
    return bad_request(param, "invalid_value", f"Invalid '{param}'.")


def _missing(param: str, value: object) -> ApiError:
    """`value` is the object without it; perhaps it is there under a misspelt name."""
    given = islice(value, MAX_NAMES) if isinstance(value, dict) else ()
    names = [name[:MAX_ECHOED_NAME] for name in given]
    close = get_close_matches(param, names, n=1)
    hint = f" Did you misspell it as '{close[0]}'?" if close else ""
    return bad_request(
        param, "missing_required_parameter", f"Missing required parameter: '{param}'.{hint}"
    )


def _param(loc: tuple[int | str, ...]) -> str:
    """("stop_token_ids", 3) is `stop_token_ids[3]`, ("stream_options", "x") `stream_options.x`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")[:MAX_ECHOED_CHARACTERS]


def _number(value: float) -> str:
    text = str(value) if isinstance(value, int) else f"{value:.12g}"
    return text[:MAX_ECHOED_CHARACTERS]
