"""A batch as columns of integers: all that the device must be told of a step.

Plain lists, so that they go to the device in one copy. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.batch import Batch, ScheduledRow

# Stands for a token that is still on the device: the last one drawn for its row.
UNKNOWN = -1


@dataclass(slots=True)
class StepInputs:
    """Columns run parallel where their comment says so; a *place* is an index."""

    started_rows: list[int] = field(default_factory=list)
    copy_sources: list[int] = field(default_factory=list)
    copy_targets: list[int] = field(default_factory=list)  # with copy_sources
    page_places: list[int] = field(default_factory=list)  # in the flattened block tables
    page_ids: list[int] = field(default_factory=list)  # with page_places
    empty_pages: list[int] = field(default_factory=list)  # new ones that nothing is in yet
    token_ids: list[int] = field(default_factory=list)
    token_rows: list[int] = field(default_factory=list)  # with token_ids
    positions: list[int] = field(default_factory=list)  # with token_ids
    sample_places: list[int] = field(default_factory=list)  # tokens after which one is drawn
    sample_rows: list[int] = field(default_factory=list)  # with sample_places
    sample_positions: list[int] = field(default_factory=list)  # of the drawn ones; with the two

    @property
    def columns(self) -> list[list[int]]:
        """What goes to the device, in this order; ids, rows and positions of tokens in one."""
        return [
            self.started_rows,
            self.copy_sources,
            self.copy_targets,
            self.page_places,
            self.page_ids,
            self.empty_pages,
            self.token_ids + self.token_rows + self.positions,
            self.sample_places,
            self.sample_rows,
        ]

    def pad(self, size: int, padding_row: int) -> None:
        """Tokens up to `size`, those of a row of nobody's, at its first position."""
        missing = size - len(self.token_ids)
        self.token_ids += [0] * missing
        self.token_rows += [padding_row] * missing
        self.positions += [0] * missing


def step_inputs(batch: Batch, block_size: int, max_blocks: int) -> StepInputs:
    """The columns of a batch, for block tables with `max_blocks` entries in each row."""
    inputs = StepInputs(
        started_rows=[start.row for start in batch.starts],
        copy_sources=[source for source, _ in batch.copies],
        copy_targets=[target for _, target in batch.copies],
    )
    for row in batch.rows:
        if row.new_block_ids:
            _add_pages(inputs, row, block_size, max_blocks)
        if row.sample:
            _add_samples(inputs, row)
        inputs.token_ids += row.token_ids
        if len(row.token_ids) < row.num_tokens:
            inputs.token_ids.append(UNKNOWN)
        inputs.token_rows += [row.row] * row.num_tokens
        inputs.positions += range(row.start, row.start + row.num_tokens)
    return inputs


def _add_pages(inputs: StepInputs, row: ScheduledRow, block_size: int, max_blocks: int) -> None:
    for i, block_id in enumerate(row.new_block_ids, start=row.num_known_blocks):
        inputs.page_places.append(row.row * max_blocks + i)
        inputs.page_ids.append(block_id)
        if i * block_size >= row.start:
            inputs.empty_pages.append(block_id)


def _add_samples(inputs: StepInputs, row: ScheduledRow) -> None:
    """Call before the row's tokens are added."""
    num_samples = row.num_drafts + 1
    end_place = len(inputs.token_ids) + row.num_tokens
    end_position = row.start + row.num_tokens
    inputs.sample_places += range(end_place - num_samples, end_place)
    inputs.sample_rows += [row.row] * num_samples
    inputs.sample_positions += range(end_position - num_samples + 1, end_position + 1)
