"""The table of parameters by row."""

from __future__ import annotations

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler.rows import RowTable


def start(table: RowTable, row: int, params: SamplingParams) -> None:
    table.start(RowStart(row, row, params, [1], num_prompt_tokens=1))


def test_long_lists_are_made_once_for_all_rows_of_a_request() -> None:
    """Each would take milliseconds, in a step that others wait for."""
    table = RowTable(4, 50_000)
    params = SamplingParams(
        allowed_token_ids=tuple(range(50_000)), bad_words=((1, 2), (3,)), logit_bias={5: 1.0}
    )
    other = SamplingParams(allowed_token_ids=(7,))
    for row, its in enumerate((params, params, other, params)):
        start(table, row, its)
    assert table.lists(0) is table.lists(1)
    assert table.lists(2).allowed_ids.tolist() == [7]
    assert table.lists(3).allowed_ids.tolist() == list(range(50_000))
    assert table.lists(3).bad_words.last_ids.tolist() == [2, 3]
