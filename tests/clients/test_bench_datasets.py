from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from octavo_client.bench.datasets import (
    FIRST_ID,
    DatasetError,
    Lengths,
    Prompt,
    random_prompts,
    text_prompts,
)

TEXT = "One two,\n three  four\tfive\n"


def ids_of(prompt: Prompt) -> list[int]:
    assert isinstance(prompt.content, list)
    return prompt.content


def draw(seed: int, count: int = 20, prefix_len: int = 0, spread: float = 0.0) -> list[Prompt]:
    return random_prompts(
        count,
        Random(seed),
        input_len=Lengths(10, spread),
        output_len=Lengths(4, spread),
        vocab_size=1000,
        prefix_len=prefix_len,
    )


def test_a_seed_fixes_the_prompts() -> None:
    assert draw(1, spread=0.5) == draw(1, spread=0.5)
    assert draw(1) != draw(2)


def test_random_prompts_differ_and_are_as_long_as_said() -> None:
    prompts = draw(1)
    assert len({tuple(ids_of(prompt)) for prompt in prompts}) == 20
    assert {(len(ids_of(p)), p.num_tokens, p.max_tokens) for p in prompts} == {(10, 10, 4)}
    assert all(FIRST_ID <= token_id < 1000 for p in prompts for token_id in ids_of(p))


def test_a_prefix_is_shared_and_what_follows_is_not() -> None:
    prompts = draw(1, prefix_len=7)
    assert {prompt.num_tokens for prompt in prompts} == {17}
    assert len({tuple(ids_of(prompt)[:7]) for prompt in prompts}) == 1
    assert len({tuple(ids_of(prompt)[7:]) for prompt in prompts}) == 20


def test_lengths_are_spread_over_all_of_their_range() -> None:
    prompts = draw(1, count=400, spread=0.25)
    assert {len(ids_of(prompt)) for prompt in prompts} == {8, 9, 10, 11, 12}
    assert {prompt.max_tokens for prompt in prompts} == {3, 4, 5}
    assert min(Lengths(2, 1.0).draw(Random(seed)) for seed in range(50)) == 1


def test_a_tiny_vocabulary_has_ids_too() -> None:
    (prompt,) = random_prompts(
        1, Random(1), input_len=Lengths(50), output_len=Lengths(1), vocab_size=2
    )
    assert set(ids_of(prompt)) == {1}


def test_text_is_cut_in_order_and_goes_around(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(TEXT)
    lengths = {"input_len": Lengths(2), "output_len": Lengths(3)}
    prompts = text_prompts(5, Random(0), path=path, **lengths)
    assert prompts == text_prompts(5, Random(0), path=path, **lengths)
    contents = [str(prompt.content) for prompt in prompts]
    words = " ".join(contents).split()
    start = TEXT.split().index(words[0])
    assert words == (TEXT.split() * 3)[start : start + 10]
    assert {content for content in contents if content.startswith("three")} <= {"three  four"}
    assert all(content == content.strip() for content in contents)
    assert {(prompt.num_tokens, prompt.max_tokens) for prompt in prompts} == {(None, 3)}


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\xff", None])
def test_what_is_no_text(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match="text"):
        text_prompts(1, Random(0), path=path, input_len=Lengths(1), output_len=Lengths(1))
