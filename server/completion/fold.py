"""The JSON answer: a completion's pieces joined, and of several choices the best picked.

Knows no HTTP and no JSON.
"""

from __future__ import annotations

from server.completion.choice import Choice, Piece, PieceExtras
from server.completion.completion import Completion
from server.completion.logprobs import Logprobs


async def fold(completion: Completion) -> list[Piece]:
    """The whole answer: one piece for each returned choice, in order, numbered from 0."""
    folded: dict[int, Piece] = {}
    texts: dict[int, list[str]] = {}
    async with completion:
        async for pieces in completion:
            for piece in pieces:
                whole = folded.setdefault(piece.index, Piece(piece.index, ""))
                texts.setdefault(piece.index, []).append(piece.text)
                _append(whole, piece)
    for index, whole in folded.items():
        whole.text = "".join(texts[index])
    tables = completion.prompt_tables
    answer: list[Piece] = []
    for position, choices in enumerate(completion.choices_by_prompt):
        for choice in _best(choices, completion.num_returned):
            whole = folded[choice.index]
            whole.index = len(answer)
            if tables is not None:
                whole.extras = whole.extras or PieceExtras()
                whole.extras.prompt_logprobs = tables[position]
            answer.append(whole)
    return answer


def _append(whole: Piece, piece: Piece) -> None:
    whole.finish_reason = piece.finish_reason
    if piece.logprobs is not None:
        whole.logprobs = whole.logprobs or Logprobs()
        whole.logprobs.extend(piece.logprobs)
    if piece.extras is not None:
        if whole.extras is None:
            whole.extras = piece.extras
        else:
            whole.extras.extend(piece.extras)


def _best(choices: list[Choice], num_returned: int) -> list[Choice]:
    """All, in their order, or the best of them by log-probability per token, best first."""
    if num_returned == len(choices):
        return choices
    return sorted(choices, key=_mean_logprob, reverse=True)[:num_returned]


def _mean_logprob(choice: Choice) -> float:
    return choice.sum_logprobs / max(choice.num_tokens, 1)
