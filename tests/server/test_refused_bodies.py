"""What is left of a body that was refused: nothing."""

from __future__ import annotations

import gc

import pytest

from server.wire.body import parse_json
from server.wire.errors import ApiError
from server.wire.schemas import CompletionRequest


def num_errors() -> int:
    gc.collect()
    # By type: some objects of other libraries warn when they are asked for their class.
    return sum(issubclass(type(thing), ApiError) for thing in gc.get_objects())


def refuse(body: bytes) -> None:
    try:
        parse_json(CompletionRequest, body)
    except ApiError:
        return
    raise AssertionError("it was accepted")


@pytest.mark.parametrize(
    "changes", [b'"stop": ""', b'"prompt": []', b'"stop": "", "logit_bias": 1', b'"n": 0', b"]"]
)
def test_it_is_forgotten(changes: bytes) -> None:
    """pydantic's errors hold ours, and the garbage collector does not see into them: if ours led
    back there, each would stay for ever, and the whole request with it."""
    before = num_errors()
    for _ in range(3):
        refuse(b'{"model": "m", "prompt": "x", ' + changes + b"}")
    assert num_errors() == before
