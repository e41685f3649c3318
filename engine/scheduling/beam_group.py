"""The sequences of one beam search: who continues whom after a round.

A beam that has brought its next tokens' log-probabilities waits for the others of its group; when
all have, `decide` gives each a token. Owns no pages: the scheduler moves them. Standard library
only.
"""

from __future__ import annotations

from engine.config import SchedulerConfig
from engine.request import beam_search_blocks
from engine.scheduling.beam_search import Beams
from engine.scheduling.sequence import Sequence


class BeamGroup:
    """`sequences` in the order of the beams: one for the prompt at first, then `n`.

    `first` is the one that computed the prompt. It may hold any beam later, as they all may.
    """

    def __init__(self, first: Sequence, config: SchedulerConfig) -> None:
        n, num_prompt_tokens = first.request.n, first.num_prompt_tokens
        room = max(config.max_model_len - num_prompt_tokens, 1)
        max_tokens = min(first.sampling.max_tokens, room)
        num_blocks = beam_search_blocks(num_prompt_tokens, max_tokens, n, config.block_size)
        assert n <= config.max_num_seqs and num_blocks <= config.num_blocks, (
            "a beam search must fit when it is alone"
        )
        self.first = first
        self.beams = Beams(first.request, max_tokens)
        self.sequences = [first]

    @property
    def is_ready(self) -> bool:
        return all(sequence.awaits_decision for sequence in self.sequences)

    def decide(self) -> list[Sequence]:
        """Give every beam its next token, once all have reported; no beams when it is over.

        The first child of a beam keeps its sequence. The others take the sequences of beams that
        ended without a child, and new ones after the first round; of these `parent` is set, and
        they are returned: they need pages that hold the parent's tokens.
        """
        before = self.sequences
        candidates = [s.candidates for s in before if s.candidates is not None]
        continuations = self.beams.advance(candidates)
        assert len(continuations) in (0, self.first.request.n)
        kept = {continuation.parent for continuation in continuations}
        free = [sequence for i, sequence in enumerate(before) if i not in kept]
        free += self._new_sequences(len(continuations) - len(before))
        self.sequences = []
        forks: list[Sequence] = []
        for parent, _ in continuations:
            if parent in kept:
                kept.remove(parent)
                sequence = before[parent]
            else:
                sequence = free.pop(0)
                sequence.fork_from(before[parent])
                forks.append(sequence)
            self.sequences.append(sequence)
        for sequence, (_, token_id) in zip(self.sequences, continuations, strict=True):
            sequence.output_token_ids.append(token_id)
            sequence.candidates = None
        return forks

    def check_integrity(self, unfinished: list[Sequence]) -> None:
        """Raise AssertionError unless the beams are the request's sequences, of one length."""
        assert set(self.sequences) == set(unfinished), "a beam is lost"
        assert len({beam.num_known_tokens for beam in self.sequences}) == 1, "beams differ"
        assert not self.is_ready, "a decision is overdue"

    def _new_sequences(self, count: int) -> list[Sequence]:
        _, turn, arrival = self.first.order
        request = self.first.request
        return [Sequence(request, i, arrival + i, turn=turn) for i in range(1, count + 1)]
