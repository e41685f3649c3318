"""The API's parameters as the command line has them: options of `complete`, words of `/set`.

One table for both. Names, ranges and defaults are the server's business: what is not given is not
sent, and a wrong value comes back as the server's own error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from octavo_client.grouped_help import GroupedOption

if TYPE_CHECKING:
    AnyType = click.ParamType[Any]
else:
    AnyType = click.ParamType  # before click 8.5 it is not generic

LENGTH = "Length and end"
SAMPLING = "Sampling"
CHOICES = "Several choices"
PROMPT = "Prompt"
TOKENS = "Tokens and scheduling"


class TokenBias(AnyType):
    """`ID=BIAS`, as a pair."""

    name = "ID=BIAS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        token_id, found, bias = str(value).partition("=")
        try:
            if found and token_id.isdecimal():
                return token_id, float(bias)
        except ValueError:
            pass
        self.fail(f"{value!r} is not a token id, = and a number, such as 1234=-100", param, ctx)


class JsonParameter(AnyType):
    """`NAME=VALUE` with a JSON value, as a pair; what is no JSON is a string."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        if isinstance(value, tuple):
            return value
        name, found, text = str(value).partition("=")
        if not (found and name):
            self.fail(f"{value!r} is not a name, = and a value", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


class EarlyStopping(AnyType):
    """`true`, `false` or `never`."""

    name = "true|false|never"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bool | str:
        if value == "never":
            return "never"
        return bool(click.BOOL.convert(value, param, ctx))


@dataclass(frozen=True)
class Parameter:
    """`name` is the API's. `many` may be given several times and is sent as a list, or as an object
    where the type makes pairs; `flag` is --this or --no-this. `option` is the command line's name
    where it is not the API's own."""

    name: str
    type: AnyType | type
    group: str
    help: str = ""
    metavar: str | None = None
    many: bool = False
    flag: bool = False
    option: str | None = None
    in_chat: bool = True

    @property
    def flags(self) -> list[str]:
        word = (self.option or self.name).replace("_", "-")
        if self.name == "n":
            return ["-n", "--n"]
        return [f"--{word}/--no-{word}"] if self.flag else [f"--{word}"]


_ID = click.IntRange(min=0)

PARAMETERS = (
    Parameter("max_tokens", int, LENGTH, "At most so many."),
    Parameter("min_tokens", int, LENGTH, "At least so many."),
    Parameter("stop", str, LENGTH, "Ends the text; up to 16 of them.", "TEXT", many=True),
    Parameter(
        "stop_token_ids",
        _ID,
        LENGTH,
        "Ends the text too.",
        "ID",
        many=True,
        option="stop_token_id",
    ),
    Parameter("ignore_eos", bool, LENGTH, "Go on after the model's own end.", flag=True),
    Parameter("include_stop_str_in_output", bool, LENGTH, "Print what ended the text.", flag=True),
    Parameter("temperature", float, SAMPLING, "0 takes the likeliest token each time."),
    Parameter("top_p", float, SAMPLING, "Of the likeliest tokens that make up this probability."),
    Parameter("top_k", int, SAMPLING, "Of so many likeliest tokens."),
    Parameter("min_p", float, SAMPLING, "Of tokens with this share of the best one's probability."),
    Parameter("seed", int, SAMPLING, "The same seed gives the same text."),
    Parameter("presence_penalty", float, SAMPLING, "Against tokens that were written already."),
    Parameter("frequency_penalty", float, SAMPLING, "The same, by how often they were."),
    Parameter("repetition_penalty", float, SAMPLING, "The same, of the prompt too; above 1."),
    Parameter(
        "logit_bias",
        TokenBias(),
        SAMPLING,
        "Make a token likelier (to 100) or not (to -100).",
        many=True,
    ),
    Parameter(
        "allowed_token_ids",
        _ID,
        SAMPLING,
        "No others may come.",
        "ID",
        many=True,
        option="allowed_token_id",
    ),
    Parameter("bad_words", str, SAMPLING, "Must not come.", "WORD", many=True, option="bad_word"),
    Parameter("n", int, CHOICES, "Several completions, when whole.", in_chat=False),
    Parameter("best_of", int, CHOICES, "Of so many, the N best.", in_chat=False),
    Parameter(
        "use_beam_search",
        bool,
        CHOICES,
        "Search for the N likeliest.",
        flag=True,
        in_chat=False,
        option="beam_search",
    ),
    Parameter("length_penalty", float, CHOICES, "Of a beam search.", in_chat=False),
    Parameter("early_stopping", EarlyStopping(), CHOICES, "Of a beam search.", in_chat=False),
    Parameter("echo", bool, PROMPT, "Print the prompt too.", flag=True, in_chat=False),
    Parameter("suffix", str, PROMPT, "What comes after the gap to fill.", "TEXT", in_chat=False),
    Parameter(
        "truncate_prompt_tokens",
        int,
        PROMPT,
        "Keep so many tokens of it; -1: what fits.",
        in_chat=False,
    ),
    Parameter(
        "truncation_side",
        click.Choice(["left", "right"]),
        PROMPT,
        "Where tokens are left out.",
        in_chat=False,
    ),
    Parameter(
        "add_special_tokens",
        bool,
        PROMPT,
        "Begin as the model's texts begin.",
        flag=True,
        in_chat=False,
    ),
    Parameter("prompt_logprobs", int, PROMPT, "With --json --no-stream.", in_chat=False),
    Parameter("skip_special_tokens", bool, TOKENS, "Leave special tokens out.", flag=True),
    Parameter("spaces_between_special_tokens", bool, TOKENS, "For other servers.", flag=True),
    Parameter("return_token_ids", bool, TOKENS, "With --json.", flag=True, in_chat=False),
    Parameter("return_tokens_as_token_ids", bool, TOKENS, "With --json.", flag=True, in_chat=False),
    Parameter("priority", int, TOKENS, "Lower goes first."),
    Parameter("cache_salt", str, TOKENS, "Share cached prompts under this word only.", "TEXT"),
    Parameter("user", str, TOKENS, "For the server's operator.", "TEXT"),
)
CHAT_PARAMETERS = tuple(parameter for parameter in PARAMETERS if parameter.in_chat)


def parameter_options(
    parameters: Sequence[Parameter],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each, as a keyword argument of the API's name, and --param."""

    def add_options(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--param",
            "others",
            cls=GroupedOption,
            group=TOKENS,
            type=JsonParameter(),
            multiple=True,
            help="Any other parameter of the server; the value is JSON, or else a text.",
        )(command)
        for parameter in reversed(parameters):
            command = click.option(
                *parameter.flags,
                parameter.name,
                cls=GroupedOption,
                group=parameter.group,
                type=parameter.type,
                multiple=parameter.many,
                default=None,
                metavar=parameter.metavar,
                help=parameter.help,
            )(command)
        return command

    return add_options


def body_of(given: dict[str, Any]) -> dict[str, object]:
    """What was given of them, as the API wants it. `given` may have "others"."""
    body: dict[str, object] = {}
    for parameter in PARAMETERS:
        value = given.get(parameter.name)
        if value is None or value == ():
            continue
        if isinstance(parameter.type, TokenBias):
            value = dict(value)
        elif parameter.many:
            value = list(value)
        body[parameter.name] = value
    return {**body, **dict(given.get("others") or ())}


def parse_value(parameter: Parameter, words: Sequence[str]) -> object:
    """The value of `/set NAME WORDS`; a `click.UsageError` where it is none."""
    kind = click.types.convert_type(parameter.type)
    try:
        if parameter.many:
            return tuple(kind.convert(word, None, None) for word in words)
        return kind.convert(" ".join(words), None, None)
    except click.UsageError as error:
        raise click.UsageError(f"{parameter.name}: {error.message}") from error
