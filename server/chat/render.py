"""Renders one chat template, as a process of its own: JSON in, JSON out.

A template comes with the model, from anywhere, and Jinja's sandbox bounds neither time nor memory
(`'a' * 10**9`). So the system does: this process may use that much processor time and memory and
write no file; whoever waits for its answer sees it end. Run by its path, and imports nothing of
ours.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CPU_SECONDS = 5
MAX_MEMORY_BYTES = 512 << 20

# Of an answer, besides its prompt: no more is looked at.
_MAX_WORDS = 1000
_MAX_TURN_END = 256

# No text of anybody's; what follows it in a rendered conversation ends a turn.
_MARK = "\ufdd0octavo\ufdd0"


class _Refused(jinja2.TemplateError):
    """The template itself says that it does not take these messages."""


class _Generation(Extension):
    """`{% generation %}` and `{% endgeneration %}` mark answers for training; here, nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def main() -> None:
    """Answers {"prompt", "turn_end"}, or {"refused"} with the template's words, or {"failed"}."""
    job = json.load(sys.stdin)
    _limit()
    answer: dict[str, str]
    try:
        template = _environment().from_string(job["template"])
        rendered = _render(template, job, job["messages"], job["add_generation_prompt"])
        answer = {"prompt": rendered, "turn_end": _turn_end(template, job)[:_MAX_TURN_END]}
    except _Refused as error:
        answer = {"refused": str(error)[:_MAX_WORDS]}
    except MemoryError:
        answer = {"failed": "it takes too much memory"}
    except Exception as error:  # a template may raise whatever it likes
        answer = {"failed": f"{type(error).__name__}: {error}"[:_MAX_WORDS]}
    json.dump(answer, sys.stdout)


def _limit() -> None:
    for kind, amount in (
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # not every system has them all
            resource.setrlimit(kind, (amount, amount))


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates are written for: Jinja as `transformers` sets it up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, which escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(str(message))


def _render(
    template: jinja2.Template,
    job: dict[str, Any],
    messages: Sequence[dict[str, str]],
    add_generation_prompt: bool,
) -> str:
    """The text; ValueError as soon as it is longer than the job allows, or is none in UTF-8."""
    pieces: list[str] = []
    num_bytes = 0
    for piece in template.generate(
        messages=messages, add_generation_prompt=add_generation_prompt, **job["variables"]
    ):
        num_bytes += len(piece.encode())
        if num_bytes > job["max_bytes"]:
            raise ValueError(f"its text is longer than {job['max_bytes']} bytes")
        pieces.append(piece)
    return "".join(pieces)


def _turn_end(template: jinja2.Template, job: dict[str, Any]) -> str:
    """What the template writes after an answer; "" where it cannot be told."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    try:
        return _render(template, job, messages, False).partition(_MARK)[2]
    except Exception:  # it likes other conversations only
        return ""


if __name__ == "__main__":
    main()
