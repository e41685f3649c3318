"""A runner without a model, for tests of everything above it: exact, deterministic, suspicious.

Its pages hold, for each position, a digest of all tokens up to there, chained through the block
tables. The drawn token is a function of the digest under the last position, and so are the
log-probabilities: one wrong page, copy, row or token anywhere shows as a wrong output.
`expected_tokens` and `expected_beams` compute the same directly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

from engine.batch import Batch, RowOutput, RowStart, ScheduledRow
from engine.request import Failure, Request, SamplingParams, TokenLogprobs
from engine.scheduling.beam_search import Beams, Hypothesis

VOCAB_SIZE = 97
FAILURE = Failure("made_up", "this row fails")


def _extend(digest: bytes, token_id: int) -> bytes:
    return hashlib.blake2b(digest + token_id.to_bytes(4, "little"), digest_size=8).digest()


def _draw(digest: bytes, position: int, sampling: SamplingParams, index: int) -> int:
    """The token for `position`. Every third seed mostly repeats itself, and can be guessed."""
    if sampling.seed % 3 == 2 and position % 11:
        return position % 4
    key = digest + f"{sampling.seed}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") % VOCAB_SIZE


def _logprob(digest: bytes, token_id: int) -> TokenLogprobs:
    key = int.from_bytes(_extend(digest, token_id)[:2], "little")
    return TokenLogprobs(-key / 65536, 1, [], [])


@lru_cache(maxsize=2_000)
def _best_tokens(digest: bytes) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """All tokens and their log-probabilities, best first. Few values, so that there are equals."""
    logprobs = {t: _logprob(digest, t).logprob for t in range(VOCAB_SIZE)}
    coarse = {t: round(logprob * 512) / 64 for t, logprob in logprobs.items()}
    order = sorted(coarse, key=lambda t: (-coarse[t], t))
    return tuple(order), tuple(coarse[t] for t in order)


def _candidates(digest: bytes, num_top: int) -> TokenLogprobs:
    token_ids, logprobs = _best_tokens(digest)
    return TokenLogprobs(logprobs[0], 1, list(token_ids[:num_top]), list(logprobs[:num_top]))


def forget_candidates() -> None:
    """Drop what is kept to be quick; to who looks for leaks it would be one."""
    _best_tokens.cache_clear()


def expected_beams(request: Request, max_model_len: int = 10**9) -> list[Hypothesis]:
    """What a beam search must bring, whatever else runs."""
    limit = min(request.sampling.max_tokens, max_model_len - len(request.prompt_token_ids))
    digest = b""
    for token_id in request.prompt_token_ids:
        digest = _extend(digest, token_id)
    beams, digests = Beams(request, limit), [digest]
    while continuations := beams.advance([_candidates(d, VOCAB_SIZE) for d in digests]):
        digests = [_extend(digests[parent], token_id) for parent, token_id in continuations]
    return beams.best


def expected_tokens(request: Request, index: int, max_model_len: int = 10**9) -> list[int]:
    """What the choice must bring, whatever else runs."""
    digest = b""
    for token_id in request.prompt_token_ids:
        digest = _extend(digest, token_id)
    token_ids: list[int] = []
    limit = min(request.sampling.max_tokens, max_model_len - len(request.prompt_token_ids))
    while len(token_ids) < limit:
        position = len(request.prompt_token_ids) + len(token_ids)
        token_ids.append(_draw(digest, position, request.sampling, index))
        if token_ids[-1] in request.sampling.stop_token_ids:
            break
        digest = _extend(digest, token_ids[-1])
    return token_ids


def expected_logprobs(request: Request, token_ids: list[int]) -> list[TokenLogprobs]:
    """Those of a choice's tokens, of the number that its parameters ask for."""
    num_top = request.sampling.logprobs
    assert num_top is not None
    digest = b""
    for token_id in request.prompt_token_ids:
        digest = _extend(digest, token_id)
    logprobs = []
    for token_id in token_ids:
        logprobs.append(_candidates(digest, num_top))
        digest = _extend(digest, token_id)
    return logprobs


def expected_prompt_logprobs(request: Request) -> list[TokenLogprobs | None]:
    digest = b""
    logprobs: list[TokenLogprobs | None] = [None]
    for token_id, target in zip(
        request.prompt_token_ids, request.prompt_token_ids[1:], strict=False
    ):
        digest = _extend(digest, token_id)
        logprobs.append(_logprob(digest, target))
    return logprobs


class ContractError(BaseException):
    """The other side broke the contract. No Exception: those are the runner's own failures."""


class FakeHandle:
    def __init__(self, outputs: list[RowOutput]) -> None:
        self._outputs = outputs

    def wait(self) -> list[RowOutput]:
        return self._outputs


class FailingHandle:
    """Of a launch that came to nothing, or of one after it."""

    def __init__(self, runner: FakeRunner, error: Exception | None, outputs: list[RowOutput]):
        self._runner = runner
        self._error = error
        self._outputs = outputs

    def wait(self) -> list[RowOutput]:
        if self._error is not None:
            self._runner.is_broken = False
            raise self._error
        return self._outputs


class FakeRunner:
    """Keeps the contract of `engine/batch.py` and asserts that the other side does."""

    max_launches = 1

    def __init__(self, num_blocks: int, block_size: int, max_num_seqs: int) -> None:
        self._block_size = block_size
        self._pages: list[list[bytes | None]] = [[None] * block_size for _ in range(num_blocks)]
        self._starts: list[RowStart | None] = [None] * max_num_seqs
        self._tables: list[list[int]] = [[] for _ in range(max_num_seqs)]
        self._last_sampled: list[int | None] = [None] * max_num_seqs
        self.batches: list[Batch] = []
        self.fail_token: int | None = None  # a row that computes this token fails
        # What a batch raises, None for nothing. Its pages, and those of launches until it was
        # waited for, hold nothing then.
        self.fault: Callable[[Batch], Exception | None] = lambda batch: None
        self.raises_in_wait = False
        self.is_broken = False

    def launch(self, batch: Batch) -> FakeHandle | FailingHandle:
        try:
            outputs = self._launch(batch)
        except AssertionError as error:
            raise ContractError(str(error)) from error
        error = None if self.is_broken else self.fault(batch)
        if error is None and not self.is_broken:
            return FakeHandle(outputs)
        for row in batch.rows:
            for position in range(row.start, row.start + row.num_tokens):
                page = self._tables[row.row][position // self._block_size]
                self._pages[page][position % self._block_size] = None
        if error is not None and not self.raises_in_wait:
            raise error
        self.is_broken = True
        return FailingHandle(self, error, [RowOutput([VOCAB_SIZE]) for _ in batch.rows])

    def _launch(self, batch: Batch) -> list[RowOutput]:
        assert batch.rows, "an empty batch is not launched"
        self.batches.append(batch)
        for start in batch.starts:
            self._starts[start.row] = start
            self._tables[start.row] = []
            self._last_sampled[start.row] = None
        targets = [target for _, target in batch.copies]
        assert len(set(targets)) == len(targets), "a page is overwritten by two"
        for source, target in batch.copies:
            self._pages[target] = list(self._pages[source])
        for row in batch.rows:
            for place, block_id in enumerate(row.new_block_ids, row.num_known_blocks):
                if place * self._block_size >= row.start:
                    self._pages[block_id] = [None] * self._block_size
        row_ids = [row.row for row in batch.rows]
        assert len(set(row_ids)) == len(row_ids), "a row is scheduled twice"
        return [self._run(row) for row in batch.rows]

    def _run(self, row: ScheduledRow) -> RowOutput:
        start = self._starts[row.row]
        assert start is not None, "a row runs that was never started"
        table = self._tables[row.row]
        assert len(table) == row.num_known_blocks
        table.extend(row.new_block_ids)
        token_ids = list(row.token_ids)
        if len(token_ids) < row.num_tokens:
            last_sampled = self._last_sampled[row.row]
            assert last_sampled is not None, "an unknown token was never drawn"
            token_ids.append(last_sampled)
        assert len(token_ids) == row.num_tokens > 0
        assert len(table) * self._block_size >= row.start + row.num_tokens
        digests = []
        for position, token_id in enumerate(token_ids, row.start):
            before = b"" if position == 0 else self._read(table, position - 1)
            digests.append(_extend(before, token_id))
            self._pages[table[position // self._block_size]][position % self._block_size] = digests[
                -1
            ]
        if self.fail_token in token_ids:
            self._last_sampled[row.row] = 0  # as of a real one: a launch ahead may ask for it
            return RowOutput([], error=FAILURE)
        output = RowOutput([])
        if row.prompt_targets is not None:
            output.prompt_logprobs = [
                _logprob(digest, target)
                for digest, target in zip(digests, row.prompt_targets, strict=False)
            ]
        if row.sample:
            num_top = start.sampling.logprobs
            output.logprobs = None if num_top is None else []
            drafts = token_ids[len(token_ids) - row.num_drafts :]
            position = row.start + row.num_tokens - row.num_drafts
            for digest, draft in zip(digests[-1 - row.num_drafts :], [*drafts, None], strict=True):
                token_id = _draw(digest, position, start.sampling, start.index)
                position += 1
                self._last_sampled[row.row] = token_id
                output.token_ids.append(token_id)
                if output.logprobs is not None:
                    output.logprobs.append(_candidates(digest, num_top))
                if token_id != draft:
                    break
        return output

    def _read(self, table: list[int], position: int) -> bytes:
        digest = self._pages[table[position // self._block_size]][position % self._block_size]
        assert digest is not None or self.is_broken, "a page is read that was never written"
        return digest or b""
