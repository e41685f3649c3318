"""Beam search as arithmetic: which continuations go on, which are complete, when it is over.

The semantics are those of `generate(num_beams=n, num_return_sequences=n, do_sample=False)` in
transformers 5 for one prompt, sums in float32 included. Knows nothing of sequences, pages or rows.
Standard library only.
"""

from __future__ import annotations

import ctypes
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from engine.request import FinishReason, Request, SamplingParams, TokenLogprobs

# The sum of a beam that does not count: in the first round all beams are the prompt.
_OUT_OF_THE_RACE = -1.0e9


class Continuation(NamedTuple):
    """A beam of the next round: beam `parent` of the last one, and one more token."""

    parent: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A complete continuation of the prompt. `logprobs` is empty when they were not asked for."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    score: float
    finish_reason: FinishReason


class _Beam(NamedTuple):
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    sum_logprobs: float


class _Candidate(NamedTuple):
    """A beam and its `place`-th best next token."""

    sum_logprobs: float
    beam: int
    place: int
    token_id: int


def beam_sampling(request: Request) -> SamplingParams:
    """What rows of this search ask of the sampler: their best tokens. What they draw is ignored.

    Among a beam's `n` + number of stop tokens best, `n` are sure to go on.
    """
    wanted = request.sampling
    num_candidates = request.n + len(set(wanted.stop_token_ids))
    return SamplingParams(
        temperature=0.0,
        max_tokens=wanted.max_tokens,
        logprobs=max(num_candidates, wanted.logprobs or 0),
        prompt_logprobs=wanted.prompt_logprobs,
    )


class Beams:
    """The `n` beams of one request, from round to round. `best` is complete when it is over."""

    def __init__(self, request: Request, max_tokens: int) -> None:
        assert request.beam_search is not None and max_tokens > 0
        self._params = request.beam_search
        self._sampling = request.sampling
        self._num_beams = request.n
        self._max_tokens = max_tokens
        self._stop_token_ids = frozenset(request.sampling.stop_token_ids)
        self._length = 0  # tokens of each running beam
        excluded = _Beam([], [], _OUT_OF_THE_RACE)
        self._running = [_Beam([], [], 0.0)] + [excluded] * (request.n - 1)
        self.best: list[Hypothesis] = []  # best first

    def advance(self, candidates: list[TokenLogprobs]) -> list[Continuation]:
        """The beams of the next round, best first; none when the search is over.

        `candidates[i]` holds the best next tokens of beam `i` in the order of the last answer. In
        the first round there is one entry, for the prompt.
        """
        is_first = self._length == 0
        if is_first:
            candidates = candidates * self._num_beams
        assert len(candidates) == len(self._running)
        self._length += 1
        running: list[_Beam] = []
        continuations: list[Continuation] = []
        complete: list[Hypothesis] = []
        for place, candidate in enumerate(self._best_first(candidates)):
            if place >= self._num_beams and (self._is_full or len(running) == self._num_beams):
                break
            finish_reason = self._finish_reason(candidate.token_id)
            if finish_reason is None:
                if len(running) < self._num_beams:
                    running.append(self._extend(candidate, candidates))
                    parent = 0 if is_first else candidate.beam
                    continuations.append(Continuation(parent, candidate.token_id))
            elif place < self._num_beams:  # the others only stand in for those that end
                complete.append(self._complete(candidate, candidates, finish_reason))
        self._running = running
        by_score = sorted([*self.best, *complete], key=lambda hypothesis: -hypothesis.score)
        self.best = by_score[: self._num_beams]
        return [] if self._is_over() else continuations

    @property
    def _is_full(self) -> bool:
        return self._length >= self._max_tokens

    def _best_first(self, candidates: list[TokenLogprobs]) -> Iterator[_Candidate]:
        """All next tokens of all beams by their sums; equals by beam, then as the beam has them."""
        streams = [self._next_tokens(beam, entry) for beam, entry in enumerate(candidates)]
        return heapq.merge(*streams, key=lambda candidate: -candidate.sum_logprobs)

    def _next_tokens(self, beam: int, entry: TokenLogprobs) -> list[_Candidate]:
        total = self._running[beam].sum_logprobs
        found = [
            _Candidate(_float32(total + logprob), beam, place, token_id)
            for place, (token_id, logprob) in enumerate(
                zip(entry.top_token_ids, entry.top_logprobs, strict=True)
            )
        ]
        if self._length <= self._sampling.min_tokens and self._stop_token_ids:
            # Too early to stop: the last choice, so that there always is one.
            stops = [c for c in found if c.token_id in self._stop_token_ids]
            found = [c for c in found if c.token_id not in self._stop_token_ids]
            found += [c._replace(sum_logprobs=-math.inf) for c in stops]
        return found

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self._stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._is_full else None

    def _extend(self, candidate: _Candidate, candidates: list[TokenLogprobs]) -> _Beam:
        """The beam with one more token and, if they are wanted, its log-probabilities."""
        beam = self._running[candidate.beam]
        logprobs = beam.logprobs
        num_top = self._sampling.logprobs
        if num_top is not None:
            entry = candidates[candidate.beam]
            logprob = entry.top_logprobs[candidate.place]
            rank = 1 + entry.top_logprobs.index(logprob)  # equals share the first one's rank
            top = (entry.top_token_ids[:num_top], entry.top_logprobs[:num_top])
            logprobs = [*logprobs, TokenLogprobs(logprob, rank, *top)]
        return _Beam([*beam.token_ids, candidate.token_id], logprobs, candidate.sum_logprobs)

    def _complete(
        self, candidate: _Candidate, candidates: list[TokenLogprobs], finish_reason: FinishReason
    ) -> Hypothesis:
        beam = self._extend(candidate, candidates)
        score = self._score(beam.sum_logprobs, self._length)
        return Hypothesis(beam.token_ids, beam.logprobs, score, finish_reason)

    def _score(self, sum_logprobs: float, length: int) -> float:
        try:
            divisor = _float32(float(length) ** self._params.length_penalty)
        except OverflowError:
            divisor = math.inf
        return _float32(sum_logprobs / divisor) if divisor > 0 else -math.inf

    def _is_over(self) -> bool:
        if not self._running:
            return True
        if len(self.best) < self._num_beams:
            return False
        if self._params.early_stopping is True:
            return True
        longest_pays = self._params.early_stopping == "never" and self._params.length_penalty > 0.0
        length = self._max_tokens if longest_pays else self._length
        return self._score(self._running[0].sum_logprobs, length) <= self.best[-1].score


def _float32(value: float) -> float:
    """Rounded as the oracle's tensors are: sums that are equal there are equal here."""
    return ctypes.c_float(value).value
