"""What a launch is asked for one sequence, and how that is taken back when it came to nothing.

Keeps the sequence's own account of where it stands with the runner. Standard library only.
"""

from __future__ import annotations

from engine.batch import Batch, RowStart, ScheduledRow
from engine.scheduling.sequence import Sequence


def plan_row(batch: Batch, sequence: Sequence, num_tokens: int, drafts: list[int]) -> ScheduledRow:
    """Ask for the sequence's next `num_tokens` tokens and its `drafts`; adds to `batch.starts`."""
    assert sequence.row is not None
    start = sequence.num_computed_tokens
    stop = start + num_tokens
    if sequence.num_sent_blocks == 0:
        known = sequence.token_ids(0, sequence.num_known_tokens)
        batch.starts.append(
            RowStart(
                row=sequence.row,
                index=sequence.index,
                sampling=sequence.sampling,
                token_ids=known,
                num_prompt_tokens=sequence.num_prompt_tokens,
            )
        )
    row = ScheduledRow(
        row=sequence.row,
        start=start,
        num_tokens=num_tokens + len(drafts),
        token_ids=sequence.token_ids(start, min(stop, sequence.num_known_tokens)) + drafts,
        num_known_blocks=sequence.num_sent_blocks,
        new_block_ids=sequence.block_ids[sequence.num_sent_blocks :],
        sample=stop == sequence.num_tokens and sequence.sampling.max_tokens > 0,
        num_drafts=len(drafts),
    )
    if sequence.wants_prompt_logprobs:
        row.prompt_targets = sequence.request.prompt_token_ids[start + 1 : stop + 1] or None
    sequence.num_computed_tokens = stop + len(drafts)
    sequence.num_sent_blocks = len(sequence.block_ids)
    # What a beam draws is not its next token: that is decided when its group has reported.
    sequence.num_pending_tokens += row.sample and not sequence.is_beam
    sequence.num_launches += 1
    return row


def take_back_row(sequence: Sequence, row: ScheduledRow) -> None:
    """Undo the plan of the newest launch of this sequence. Its pages are void from there on."""
    sequence.num_launches -= 1
    sequence.num_pending_tokens -= row.sample and not sequence.is_beam
    sequence.num_computed_tokens = row.start
