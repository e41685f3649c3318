"""A stream's chunks folded give what the server would have answered at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_client import Completion
from octavo_client._fold import CompletionFold

HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


def folded(*chunks: dict[str, Any]) -> Completion:
    fold = CompletionFold()
    for chunk in chunks:
        fold.add(Completion.model_validate(chunk))
    return fold.snapshot()


def chunk(*choices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**HEAD, **fields, "choices": list(choices)}


def choice(index: int, text: str, **fields: Any) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None, **fields}


def logprobs(tokens: list[str], first_offset: int) -> dict[str, Any]:
    offsets, offset = [], first_offset
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [-1.0] * len(tokens),
        "top_logprobs": [{token: -1.0} for token in tokens],
        "text_offset": offsets,
    }


@given(
    texts=st.lists(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=6), min_size=1),
    order=st.randoms(use_true_random=False),
    restarts=st.booleans(),
)
def test_several_choices_with_logprobs(texts: list[list[str]], order: Any, restarts: bool) -> None:
    """Chunks of the choices come in any order; some servers count offsets anew in each chunk."""
    todo = [index for index, tokens in enumerate(texts) for _ in tokens]
    order.shuffle(todo)
    done = [0] * len(texts)
    chunks = []
    for index in todo:
        tokens, at = texts[index], done[index]
        done[index] += 1
        offset = 0 if restarts else len("".join(tokens[:at]))
        reason = "stop" if done[index] == len(tokens) else None
        given_logprobs = logprobs([tokens[at]], offset)
        chunks.append(
            chunk(choice(index, tokens[at], logprobs=given_logprobs, finish_reason=reason))
        )
    whole = chunk(
        *(
            choice(i, "".join(tokens), logprobs=logprobs(tokens, 0), finish_reason="stop")
            for i, tokens in enumerate(texts)
        )
    )
    assert folded(*chunks) == Completion.model_validate(whole)


def test_fields_that_are_not_known() -> None:
    whole = folded(
        chunk(choice(0, "a", token_ids=[1], stop_reason=None), timings={"n": 1}),
        chunk(choice(0, "b", token_ids=[2], stop_reason=7, finish_reason="stop"), timings=None),
        chunk(usage={"prompt_tokens": 1, "total_tokens": 3, "new": 5}, timings={"n": 2}),
    )
    said = whole.model_dump(exclude_unset=True)
    assert said["timings"] == {"n": 2}
    assert said["usage"]["new"] == 5
    (first,) = said["choices"]
    assert (first["token_ids"], first["stop_reason"]) == ([1, 2], 7)


def test_a_snapshot_does_not_grow() -> None:
    fold = CompletionFold()
    fold.add(Completion.model_validate(chunk(choice(0, "a", token_ids=[1]))))
    first = fold.snapshot()
    fold.add(Completion.model_validate(chunk(choice(0, "b", token_ids=[2]))))
    assert first.choices[0].model_dump()["token_ids"] == [1]
    assert fold.snapshot().choices[0].model_dump()["token_ids"] == [1, 2]


def test_nothing_yet() -> None:
    fold = CompletionFold()
    assert (fold.text(0), fold.usage, fold.snapshot().choices) == ("", None, [])


@pytest.mark.parametrize("offsets", [[-1], []])
def test_offsets_that_say_nothing_stay(offsets: list[int]) -> None:
    part = {"tokens": ["a"], "token_logprobs": [-1.0], "text_offset": offsets}
    whole = folded(chunk(choice(0, "a", logprobs=part)), chunk(choice(0, "a", logprobs=part)))
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.text_offset == offsets * 2
    assert whole.choices[0].logprobs.tokens == ["a", "a"]
