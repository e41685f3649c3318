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
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CPU_SECONDS = 5
MAX_MEMORY_BYTES = 512 << 20

# No text of anybody's; what follows it in a rendered conversation ends a turn.
_MARK = "\ufdd0octavo\ufdd0"


class _Refused(jinja2.TemplateError):
    """The template itself says that it does not take these messages."""


def main() -> None:
    """Answers {"prompt", "turn_end"}, or {"refused"} with the template's words, or {"failed"}."""
    job = json.load(sys.stdin)
    _limit()
    answer: dict[str, str]
    try:
        template = _environment().from_string(job["template"])
        rendered = _render(template, job, job["messages"], job["add_generation_prompt"])
        answer = {"prompt": rendered, "turn_end": _turn_end(template, job)}
    except _Refused as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"failed": "it takes too much memory"}
    except Exception as error:  # a template may raise whatever it likes
        answer = {"failed": f"{type(error).__name__}: {error}"}
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
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Unlike Jinja's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(str(message))


def _render(
    template: jinja2.Template,
    job: dict[str, Any],
    messages: Sequence[dict[str, str]],
    add_generation_prompt: bool,
) -> str:
    """The text; ValueError as soon as it is longer than the job allows."""
    pieces: list[str] = []
    num_characters = 0
    for piece in template.generate(
        messages=messages, add_generation_prompt=add_generation_prompt, **job["variables"]
    ):
        num_characters += len(piece)
        if num_characters > job["max_characters"]:
            raise ValueError(f"its text is longer than {job['max_characters']} characters")
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
