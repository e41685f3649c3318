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


@pytest.mark.parametrize("user", [b"x", b"NaN", b"Infinity"])
def test_no_search_for_garbage_among_its_lists(user: bytes) -> None:
    """Each would look at all lists that are there already, while everybody waits."""
    num_searches = 0

    def count(phase: str, _: object) -> None:
        nonlocal num_searches
        num_searches += phase == "start"

    gc.callbacks.append(count)
    try:
        refuse(b'{"model":"m","user":"%s","prompt":[%s]}' % (user, b",".join([b"[1]"] * 100_000)))
    finally:
        gc.callbacks.remove(count)
    assert num_searches < 10  # of more than a hundred
