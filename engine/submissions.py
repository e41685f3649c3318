"""What was asked of the engine and is not finished: whose it is, and what becomes of it at a death.

A request that has produced nothing is handed to the next engine process, once, and its reader never
knows. Those that were running when the engine died are suspects: before anything else each runs
alone, as a trial of one token, and one that kills the engine there is refused. Knows no processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from engine.messages import Abort, Add, ToEngine, are_alike
from engine.request import ChoiceOutput, Failure, FinishReason, Request

# Engine processes that get a request, trials not counted.
_MOST_SENDINGS = 2

KILLED_THE_ENGINE = Failure(
    "engine_killed",
    "The engine stopped while it worked on this request, and again when it computed nothing else. "
    "The server's log says how.",
)


class Reader(Protocol):
    """Who waits for the outputs of some requests."""

    def is_open(self, request_id: str, index: int | None = None) -> bool:
        """Whether something of the request, or this choice of it, is unfinished."""

    def put(self, output: ChoiceOutput) -> None:
        """Take an output."""

    def fail(self, failure: str) -> None:
        """Nothing more comes."""


@dataclass(slots=True, eq=False)
class _Submission:
    request: Request
    reader: Reader
    num_sendings: int = 0
    is_sent: bool = False  # to the process of the moment
    has_started: bool = False
    has_output: bool = False


class Submissions:
    """Passes requests on with `send`, holds them back while there is nobody to take them.

    `num_resubmitted` counts those that were passed on again, to another engine process.
    """

    def __init__(self, send: Callable[[ToEngine], None]) -> None:
        self._send = send
        self._submissions: dict[str, _Submission] = {}  # by request id, in order of arrival
        self._is_down = False
        self._suspects: deque[_Submission] = deque()
        self._on_trial: _Submission | None = None
        self._trial = Request("", [0])
        self._num_trial_choices = 0  # unfinished
        self._trial_has_started = False
        self.num_resubmitted = 0

    def add(self, reader: Reader, requests: list[Request]) -> None:
        """Hand over requests with new ids, now or as soon as there is an engine to take them."""
        submissions = [_Submission(request, reader) for request in requests]
        for submission in submissions:
            request_id = submission.request.request_id
            assert request_id not in self._submissions, "request ids are used once"
            self._submissions[request_id] = submission
        if not self._is_down and self._on_trial is None:
            self._submit(submissions)

    def abort(self, request_id: str, index: int | None) -> None:
        """A reader gave up one choice, which it knows to be closed, or all."""
        submission = self._submissions[request_id]
        if submission.is_sent:
            self._send(Abort(request_id, index))
        if not submission.reader.is_open(request_id):
            del self._submissions[request_id]
            if submission is self._on_trial:
                self._send(Abort(self._trial.request_id))
                self._go_on()

    def start(self, request_ids: list[str]) -> None:
        """The engine is about to compute these for the first time."""
        for request_id in request_ids:
            if self._on_trial is not None and request_id == self._trial.request_id:
                self._trial_has_started = True
            elif request_id in self._submissions:
                self._submissions[request_id].has_started = True

    def put(self, output: ChoiceOutput) -> None:
        """Give an output to its reader. Those of aborted requests are dropped."""
        if self._on_trial is not None and output.request_id == self._trial.request_id:
            self._num_trial_choices -= output.finish_reason is not None
            if self._num_trial_choices == 0:
                self._go_on()
            return
        submission = self._submissions.get(output.request_id)
        if submission is None:
            return
        submission.has_output = True
        submission.reader.put(output)
        finished = output.finish_reason is not None
        if finished and not submission.reader.is_open(output.request_id):
            self._submissions.pop(output.request_id, None)  # the reader may have given up just now

    def die(self, failure: str) -> None:
        """The engine is gone. Readers who cannot be helped are told `failure`."""
        self._is_down = True
        if self._on_trial is not None and self._trial_has_started:
            self._refuse(self._on_trial)
        elif self._on_trial is not None:
            self._suspects.appendleft(self._on_trial)
        self._on_trial = None
        lost = {id(s.reader) for s in self._submissions.values() if self._is_lost(s)}
        for submission in list(self._submissions.values()):
            if id(submission.reader) in lost:
                submission.reader.fail(failure)
                del self._submissions[submission.request.request_id]
            elif submission.has_started:
                self._suspects.append(submission)
            submission.is_sent = submission.has_started = False

    def revive(self) -> None:
        """Another engine takes requests."""
        self._is_down = False
        self._go_on()

    def fail_all(self, failure: str) -> None:
        """There will be no engine any more."""
        for submission in self._submissions.values():
            submission.reader.fail(failure)
        self._submissions.clear()
        self._suspects.clear()
        self._on_trial = None

    def _is_lost(self, submission: _Submission) -> bool:
        """Whether it cannot be begun again without its reader noticing."""
        return submission.has_output or (
            submission.is_sent and submission.num_sendings >= _MOST_SENDINGS
        )

    def _refuse(self, submission: _Submission) -> None:
        request = submission.request
        del self._submissions[request.request_id]
        for index in range(request.n):
            submission.reader.put(
                ChoiceOutput(
                    request.request_id, index, [], FinishReason.ERROR, error=KILLED_THE_ENGINE
                )
            )

    def _go_on(self) -> None:
        """The next trial; after the last one all that was held back."""
        self._on_trial = None
        while self._suspects:
            suspect = self._suspects.popleft()
            if suspect.request.request_id in self._submissions:
                self._try(suspect)
                return
        self._submit(s for s in self._submissions.values() if not s.is_sent)

    def _try(self, suspect: _Submission) -> None:
        request = suspect.request
        sampling = request.sampling
        self._on_trial = suspect
        self._trial_has_started = False
        self._num_trial_choices = request.n
        self._trial = replace(
            request,
            request_id=f"{request.request_id}+trial",
            sampling=replace(
                sampling,
                max_tokens=min(sampling.max_tokens, 1),
                min_tokens=min(sampling.min_tokens, 1),
            ),
        )
        self._send(Add(self._trial))

    def _submit(self, submissions: Iterable[_Submission]) -> None:
        """Send them in their order, those that are alike in one message."""
        groups: list[list[_Submission]] = []
        for submission in submissions:
            if groups and are_alike(groups[-1][0].request, submission.request):
                groups[-1].append(submission)
            else:
                groups.append([submission])
        for group in groups:
            self._send(Add.alike([submission.request for submission in group]))
            for submission in group:
                self._sent(submission)

    def _sent(self, submission: _Submission) -> None:
        request = submission.request
        submission.is_sent = True
        self.num_resubmitted += submission.num_sendings > 0
        submission.num_sendings += 1
        for index in range(request.n):
            if not submission.reader.is_open(request.request_id, index):
                self._send(Abort(request.request_id, index))
