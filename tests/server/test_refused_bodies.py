"""What is left of a body that was refused: nothing."""

from __future__ import annotations

import gc
import time

import pytest

from server.wire.body import parse_json
from server.wire.errors import ApiError
from server.wire.limits import MAX_CONTAINERS
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


def containers(num: int, inside: bytes = b"[]") -> bytes:
    return b'{"model":"m","prompt":"x","user":[%s' % b",".join([inside] * (num - 2)) + b"]}"


@pytest.mark.parametrize("inside", [b"[]", b"{}", b"[1]", b'{"[":"\\"{"}'])
def test_arrays_and_objects_are_counted_before_they_are_parsed(inside: bytes) -> None:
    with pytest.raises(ApiError, match="Invalid type for 'user'"):
        parse_json(CompletionRequest, containers(MAX_CONTAINERS, inside))
    with pytest.raises(ApiError, match="more than 200,000 arrays and objects") as raised:
        parse_json(CompletionRequest, containers(MAX_CONTAINERS + 1, inside))
    assert raised.value.status == 400


@pytest.mark.parametrize("text", [b"[{" * 10**6, b'\\"[' * 10**6, b"\\\\[" * 10**6])
def test_those_in_a_text_are_not(text: bytes) -> None:
    body = parse_json(CompletionRequest, b'{"model":"m","prompt":"%s","n":2}' % text)
    assert body.n == 2


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b'\\"[' * 10**6,  # a string without an end
        b'"' + b"\\[" * 10**6 + b"\\",
        b'"[' * 10**6,
        b"[" * 3 * 10**6,
        b"\\[" * 10**6,
    ],
)
def test_what_is_no_json_is_refused_in_no_time(body: bytes) -> None:
    started = time.perf_counter()
    refuse(body)
    assert time.perf_counter() - started < 10
