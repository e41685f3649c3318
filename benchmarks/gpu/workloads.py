"""What is asked of every engine: prompts of random token ids and how many tokens to answer with.

Imports nothing of ours: the peers read it in environments of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

# As in nano-vllm's bench.py. Together with the order of the draws below they give its published
# number of output tokens, 133,966.
_SEED = 0
_MAX_ID = 10_000
_MIN_LEN, _MAX_LEN = 100, 1024
_NUM_REQUESTS = 256
PUBLISHED_TEMPERATURE = 0.6
PUBLISHED = "nano-vllm workload"


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt, and how many tokens are wanted for it, whatever they are."""

    prompt_token_ids: list[int]
    output_len: int

    def shifted(self, distance: int, vocab_size: int) -> Job:
        """The same lengths with other ids, so that nothing cached helps."""
        ids = [(token_id + distance) % vocab_size for token_id in self.prompt_token_ids]
        return Job(ids, self.output_len)


def streams_case(num_streams: int, input_len: int, output_len: int) -> str:
    """The name of the case in figures."""
    return f"{num_streams} streams {input_len}/{output_len}"


def published_workload() -> list[Job]:
    """256 requests, prompt and output lengths uniform in 100..1024."""
    random = Random(_SEED)  # noqa: S311
    prompts = [
        [random.randint(0, _MAX_ID) for _ in range(random.randint(_MIN_LEN, _MAX_LEN))]
        for _ in range(_NUM_REQUESTS)
    ]
    return [Job(prompt, random.randint(_MIN_LEN, _MAX_LEN)) for prompt in prompts]


def small_workload(vocab_size: int) -> list[Job]:
    """A few short requests of unequal lengths, to see that everything works."""
    random = Random(_SEED)  # noqa: S311
    prompts = [random.choices(range(vocab_size), k=random.randint(3, 40)) for _ in range(6)]
    return [Job(prompt, random.randint(2, 12)) for prompt in prompts]


def equal_streams(
    num_streams: int, input_len: int, output_len: int, vocab_size: int, seed: int
) -> list[Job]:
    """Streams that begin and end together. Another `seed` gives other ids: no cache helps."""
    random = Random(seed)  # noqa: S311
    ids = range(vocab_size)
    return [Job(random.choices(ids, k=input_len), output_len) for _ in range(num_streams)]
