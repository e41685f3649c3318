"""What is asked of every server, as data: which requests, how many at a time, and how long.

`parse` reads what the command line selects. Knows neither servers nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from comparison.servers import Shape
from octavo_client.bench.datasets import Lengths, Prompt, random_prompts

VOCAB_SIZE = 32000
_ROUND_TO = 256  # tokens of context are asked for in multiples of it
_SPARE = 16  # tokens that nobody fills: llama.cpp ends an answer before its context is full
_MAX_CONTEXT = 8192  # of the built-in model


@dataclass(frozen=True)
class Load:
    """Requests that all begin as soon as they may, `streams` at a time.

    `case` is what the report calls it by: its number of streams, or its tokens of context.
    """

    scenario: str
    case: int
    streams: int
    input_len: int
    output_len: int
    num_requests: int
    prefix_len: int = 0

    @property
    def shape(self) -> Shape:
        return shape(self.streams, self.prefix_len + self.input_len + self.output_len)

    def prompts(self, round_number: int) -> tuple[list[Prompt], list[Prompt]]:
        """Warm-up prompts, one for each stream, and those to measure; new in every round."""
        prompts = random_prompts(
            self.streams + self.num_requests,
            Random(f"{self.scenario} {self.case} {round_number}"),  # noqa: S311
            input_len=Lengths(self.input_len),
            output_len=Lengths(self.output_len),
            prefix_len=self.prefix_len,
            vocab_size=VOCAB_SIZE,
        )
        # Without a common prefix there is nothing to fill; a few tokens wake everything up.
        warmups = [
            prompt if self.prefix_len else replace(prompt, max_tokens=2)
            for prompt in prompts[: self.streams]
        ]
        return warmups, prompts[self.streams :]


@dataclass(frozen=True)
class Intrusion:
    """A long prompt, the intruder, that arrives among `case` streams when all of them decode."""

    case: int
    input_len: int
    output_len: int
    intruder_len: int
    intruder_output_len: int = 4
    scenario: str = "intrusion"

    @property
    def streams(self) -> int:
        return self.case

    @property
    def shape(self) -> Shape:
        intruder_len = self.intruder_len + self.intruder_output_len
        longest = max(self.input_len + self.output_len, intruder_len)
        return shape(self.streams + 1, longest)

    def prompts(self, round_number: int) -> tuple[list[Prompt], Prompt]:
        """Those of the decoding streams, and the intruder's."""
        random = Random(f"{self.scenario} {round_number}")  # noqa: S311

        def draw(count: int, input_len: int, output_len: int) -> list[Prompt]:
            return random_prompts(
                count,
                random,
                input_len=Lengths(input_len),
                output_len=Lengths(output_len),
                vocab_size=VOCAB_SIZE,
            )

        (intruder,) = draw(1, self.intruder_len, self.intruder_output_len)
        return draw(self.streams, self.input_len, self.output_len), intruder


@dataclass(frozen=True)
class Start:
    """Servers started afresh, `starts` times in a round. The last one is filled with `load`, then
    with idle connections, and its memory is read before and after."""

    starts: int
    load: Load
    num_connections: int
    scenario: str = "start"
    case: int = 0

    @property
    def shape(self) -> Shape:
        return self.load.shape


Scenario = Load | Intrusion | Start


def shape(streams: int, tokens: int) -> Shape:
    """For answers that end with so many `tokens` in the context."""
    return Shape(streams, -(-(tokens + _SPARE) // _ROUND_TO) * _ROUND_TO)


def decode(streams: int, quick: bool) -> Load:
    """128 tokens in and 128 out."""
    output_len, count = (8, streams) if quick else (128, max(3, 2 * streams))
    return Load("decode", streams, streams, 128, output_len, count)


def prefix(streams: int, quick: bool) -> Load:
    """1,024 tokens that all have in common, 32 of its own, 16 out."""
    output_len, per_stream = (4, 1) if quick else (16, 8)
    return Load("prefix", streams, streams, 32, output_len, streams * per_stream, 1024)


def context(tokens: int, quick: bool) -> Load:
    """One stream with a prompt of `tokens`; of 48 less where the model has no more context."""
    output_len = 8 if quick else 32
    input_len = min(tokens, _MAX_CONTEXT - 32 - _SPARE)
    return Load("context", tokens, 1, input_len, output_len, 1 if quick else 2)


def streams(count: int, quick: bool) -> Load:
    """128 tokens in and 128 out, as `decode`, each stream once."""
    return replace(decode(count, quick), scenario="streams", num_requests=max(2, count))


def intrusion(streams: int, quick: bool) -> Intrusion:
    """A prompt of 4,000 tokens among streams that decode all the while."""
    if quick:
        return Intrusion(streams, 32, 128, 500)
    return Intrusion(streams, 32, 2000, 4000)  # so long that no stream ends before


def start(streams: int, quick: bool) -> Start:
    """Starts and memory; `streams` at a time between the two readings."""
    load = replace(decode(streams, quick), scenario="start", num_requests=streams)
    return Start(1 if quick else 2, load, 100 if quick else 1000)


_MAKERS: dict[str, tuple[Callable[[int, bool], Scenario], tuple[int, ...]]] = {
    "decode": (decode, (1, 16, 32)),
    "prefix": (prefix, (8,)),
    "intrusion": (intrusion, (8,)),
    "context": (context, (128, 1024, 4096, 8192)),
    "streams": (streams, (1, 2, 4, 8, 16, 32, 64)),
    "start": (start, (32,)),
}
_QUICK = {"decode": (1, 4), "context": (128, 1024), "streams": (1, 4), "start": (4,)}
_GROUPS = {"all": tuple(_MAKERS), "growth": ("context", "streams")}
NAMES = (*_MAKERS, *_GROUPS)


def parse(texts: Sequence[str], *, quick: bool) -> list[Scenario]:
    """Scenarios out of words such as `decode`, `decode:1,16`, `growth` and `all`.

    Numbers are streams, those of `context` tokens. Raises ValueError with a line for the user.
    """
    chosen: list[Scenario] = []
    for text in texts:
        name, colon, numbers = text.partition(":")
        if name not in NAMES or (colon and name in _GROUPS):
            raise ValueError(f"{text!r}: scenarios are {', '.join(NAMES)}")
        for member in _GROUPS.get(name, (name,)):
            make, usual = _MAKERS[member]
            cases = _QUICK.get(member, usual) if quick else usual
            if colon:
                if not all(n.isascii() and n.isdigit() and int(n) for n in numbers.split(",")):
                    raise ValueError(f"{text!r}: after the colon come numbers, as in decode:1,16")
                cases = tuple(int(number) for number in numbers.split(","))
            if member == "context" and max(cases) > _MAX_CONTEXT:
                raise ValueError(f"{text!r}: the model has {_MAX_CONTEXT} tokens of context")
            chosen += [make(case, quick) for case in cases]
    # Memory is read last, when the files of a server are certainly in the page cache.
    unique = list(dict.fromkeys(chosen))
    return sorted(unique, key=lambda scenario: scenario.scenario == "start")
