"""What is told of the model that is served: its kind, its weights, where it comes from.

For `/v1/models`, the banner and `octavo models`. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine import Checkpoint


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`quantization` is the type of most weights as the file has them ("Q4_K", "BF16"), None where
    there is none; `context_length` what the model was made for. `source` is a name, never a path.
    """

    family: str
    quantization: str | None
    context_length: int
    num_parameters: int
    format: str
    source: str


def model_facts(checkpoint: Checkpoint, source: str) -> ModelFacts:
    """The facts of a checkpoint that was found as `source`."""
    return ModelFacts(
        family=checkpoint.family,
        quantization=checkpoint.weight_type,
        context_length=checkpoint.config.max_model_len,
        num_parameters=checkpoint.num_parameters,
        format=checkpoint.format,
        source=source,
    )


def author_notes(checkpoint: Checkpoint, generation_config: str) -> list[str]:
    """Lines for the banner: the tokens that end a text, and what the model's author suggests."""
    ends = list(checkpoint.tokenizer.eos_token_ids)
    suggested = checkpoint.generation
    if generation_config == "auto":
        ends = list(dict.fromkeys([*suggested.eos_token_ids, *ends]))
    notes = [f"ends at   {_tokens(ends)}"]
    if suggested.sampling and generation_config == "auto":
        values = ", ".join(f"{name} {value:g}" for name, value in suggested.sampling.items())
        notes.append(f"author    suggests {values} (shown only: requests say how to sample)")
    return notes


def _tokens(token_ids: list[int]) -> str:
    if not token_ids:
        return "no token: the model names none that ends a text"
    return f"token{'s' * (len(token_ids) > 1)} {', '.join(map(str, token_ids))}"
