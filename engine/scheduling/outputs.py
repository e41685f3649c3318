"""From what a launch brought to what is reported: new tokens, finish reasons, log-probabilities.

Appends to the tokens of a sequence and changes nothing else; queues and pages are the scheduler's.
Standard library only.
"""

from __future__ import annotations

from engine.batch import RowOutput, ScheduledRow
from engine.request import ChoiceOutput, Failure, FinishReason
from engine.scheduling.beam_group import BeamGroup
from engine.scheduling.sequence import Sequence


def take_in(
    sequence: Sequence, row: ScheduledRow, output: RowOutput, max_model_len: int
) -> ChoiceOutput | None:
    """Append what the row brought; the output to report, if there is anything to say."""
    is_first = not sequence.output_token_ids
    choice_output = ChoiceOutput(sequence.request.request_id, sequence.index, token_ids=[])
    for token_id in output.token_ids:
        sequence.output_token_ids.append(token_id)
        choice_output.token_ids.append(token_id)
        choice_output.finish_reason = _finish_reason(sequence, max_model_len)
        if choice_output.finish_reason is not None:
            break
    scored = row.start + row.num_tokens >= sequence.num_prompt_tokens
    if sequence.sampling.max_tokens == 0 and scored:
        choice_output.finish_reason = FinishReason.LENGTH
    if not choice_output.token_ids and choice_output.finish_reason is None:
        return None
    if choice_output.finish_reason is not None:
        choice_output.num_preemptions = sequence.num_preemptions
    if choice_output.finish_reason is FinishReason.STOP:
        choice_output.stop_token_id = choice_output.token_ids[-1]
    if output.logprobs is not None:
        choice_output.logprobs = output.logprobs[: len(choice_output.token_ids)]
    if is_first:
        _add_prompt(choice_output, sequence)
    return choice_output


def beam_outputs(group: BeamGroup) -> list[ChoiceOutput]:
    """All choices of a beam search that is over, best first."""
    request = group.first.request
    choice_outputs = [
        ChoiceOutput(
            request_id=request.request_id,
            index=index,
            token_ids=best.token_ids,
            finish_reason=best.finish_reason,
            stop_token_id=best.token_ids[-1] if best.finish_reason is FinishReason.STOP else None,
            logprobs=None if request.sampling.logprobs is None else best.logprobs,
        )
        for index, best in enumerate(group.beams.best)
    ]
    assert len(choice_outputs) == request.n
    choice_outputs[0].num_preemptions = group.first.num_preemptions
    _add_prompt(choice_outputs[0], group.first)
    return choice_outputs


def failure(sequence: Sequence, error: Failure) -> list[ChoiceOutput]:
    """A row that failed fails its choice; a beam's fails all choices of its search."""
    request = sequence.request
    indices = range(request.n) if sequence.is_beam else [sequence.index]
    return [
        ChoiceOutput(request.request_id, index, [], FinishReason.ERROR, error=error)
        for index in indices
    ]


def _add_prompt(choice_output: ChoiceOutput, sequence: Sequence) -> None:
    choice_output.prompt_logprobs = sequence.prompt_logprobs
    choice_output.num_cached_tokens = sequence.num_cached_tokens or 0
    choice_output.started_at = sequence.started_at


def _finish_reason(sequence: Sequence, max_model_len: int) -> FinishReason | None:
    if sequence.output_token_ids[-1] in sequence.sampling.stop_token_ids:
        return FinishReason.STOP
    if (
        len(sequence.output_token_ids) >= sequence.sampling.max_tokens
        or sequence.num_known_tokens >= max_model_len
    ):
        return FinishReason.LENGTH
    return None
