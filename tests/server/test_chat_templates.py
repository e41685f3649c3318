"""POST /apply-template: conversations by the model's template, which may be anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from byte_tokenizer import SPECIAL, byte_tokenizer
from fake_engine import INFO, FakeEngine
from live_app import MODEL, live_app

from engine import open_checkpoint
from server.chat import template as template_module
from server.chat.template import ChatTemplates
from server.settings import Settings
from server.tenants import Tenant
from server.tokenizer import Tokenizer, load_tokenizer
from server.wire.chat import ApplyTemplateRequest
from server.wire.errors import ApiError

URL = "/apply-template"
PLAIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}<special>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ANYBODY = Tenant("")
HELLO = [{"role": "user", "content": "Hello"}]


def tokenizer_with(template: str | None) -> Tokenizer:
    tokenizer: Any = byte_tokenizer()
    tokenizer.description = replace(tokenizer.description, chat_template=template)
    return tokenizer  # type: ignore[no-any-return]


@asynccontextmanager
async def serving(
    template: str | None, settings: Settings | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(FakeEngine(), settings, tokenizer_with(template)) as client:
        yield client


async def rendered(template: str, messages: object = HELLO, **others: object) -> httpx.Response:
    async with serving(template) as client:
        return await client.post(URL, json={"messages": messages, **others})


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    assert len(response.content) < 1000
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_a_conversation_becomes_a_prompt() -> None:
    messages = [{"role": "system", "content": "Be \u00fc."}, *HELLO]
    response = await rendered(PLAIN, messages, model=MODEL)
    assert response.status_code == 200, response.text
    assert response.json() == {
        "prompt": "<s>[system]Be \u00fc.<special>[user]Hello<special>[assistant]",
        "stop_token_ids": [SPECIAL],
    }


async def test_without_the_words_that_ask_for_an_answer() -> None:
    response = await rendered(PLAIN, add_generation_prompt=False)
    assert response.json()["prompt"] == "<s>[user]Hello<special>"
    assert (await rendered(PLAIN, add_generation_prompt=None)).json()["prompt"].endswith("t]")


async def test_a_template_whose_turns_end_with_text() -> None:
    response = await rendered("{% for m in messages %}{{ m.content }}\n\nEND{% endfor %}")
    assert response.json() == {"prompt": "Hello\n\nEND", "stop_token_ids": []}


async def test_the_built_in_model(builtin_model: Path) -> None:
    tokenizer = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    engine = FakeEngine(info=replace(INFO, vocab_size=49152))
    async with live_app(engine, tokenizer=tokenizer) as client:
        answer = (await client.post(URL, json={"messages": HELLO})).json()
    assert answer["prompt"].endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert answer["stop_token_ids"] == [2]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "a<b>\u00fc"}]'),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% if tools is not none %}tools{% endif %}{{ documents is none }}", "True"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{% generation %}{% set x = 1 %}a{% endgeneration %}{{ x }}", "a"),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=True) }}", '{"a":2,"b":1}'),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
    ],
)
async def test_templates_have_what_they_are_written_for(template: str, text: str) -> None:
    response = await rendered(template, [{"role": "user", "content": "a<b>\u00fc"}])
    assert response.json()["prompt"] == text


async def test_the_words_of_a_template_that_refuses() -> None:
    refusing = "{{ raise_exception('Roles must\x1b alternate ' + 'x' * 5000) }}"
    error = error_of(await rendered(refusing))
    assert error["message"].startswith(
        "The model's chat template refuses these messages: Roles must\\x1b alternate xxx"
    )
    assert (error["param"], error["code"]) == ("messages", "chat_template_failed")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        # What a sandbox is for.
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError"),
        ("{{ range(10 ** 7) }}", "OverflowError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ('{{ "\\ud800" }}', "UnicodeEncodeError"),
        # What it does not do.
        ("{{ 'a' * 10 ** 10 }}", "memory"),
        ("{% for i in range(99) %}{{ 'a' * 10 ** 5 }}{% endfor %}", "longer than"),
        ("{% set x = 'a' * 10 ** 8 %}{% set y = [x + x, x + 'b', x + 'c', x + 'd'] %}", "memory"),
    ],
)
async def test_templates_that_fail(template: str, words: str) -> None:
    error = error_of(await rendered(template))
    assert words in error["message"]
    assert "Traceback" not in error["message"]


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


async def test_a_template_that_does_not_end() -> None:
    """Its process ends it; requests go on meanwhile."""
    async with serving(LOOP) as client:
        asking = asyncio.ensure_future(client.post(URL, json={"messages": HELLO}))
        while not asking.done():
            assert (await client.get("/health")).status_code == 200
            await asyncio.sleep(0.2)
        assert "too long" in error_of(await asking)["message"]


async def test_a_time_limit_of_our_own() -> None:
    """For a process that does not get to compute, or does not begin."""
    body = ApplyTemplateRequest.model_validate({"messages": HELLO})
    with pytest.raises(ApiError, match="takes too long"):
        await ChatTemplates(seconds=0.01).apply(body, tokenizer_with(LOOP), ANYBODY)


async def test_a_few_at_a_time_and_a_bounded_queue() -> None:
    templates = ChatTemplates(seconds=0.5)
    body = ApplyTemplateRequest.model_validate({"messages": HELLO})
    asked = [templates.apply(body, tokenizer_with(LOOP), ANYBODY) for _ in range(40)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    statuses = [outcome.status for outcome in outcomes if isinstance(outcome, ApiError)]
    assert sorted(statuses) == [400] * 34 + [503] * 6
    # Nothing of it is left.
    answer = await ChatTemplates().apply(body, tokenizer_with("x"), ANYBODY)
    assert answer.prompt == "x"
    with pytest.raises(ApiError, match="too long"):
        await templates.apply(body, tokenizer_with(LOOP), ANYBODY)


async def test_a_client_that_goes_away_ends_the_rendering() -> None:
    body = ApplyTemplateRequest.model_validate({"messages": HELLO})
    templates = ChatTemplates()
    asking = asyncio.ensure_future(templates.apply(body, tokenizer_with(LOOP), ANYBODY))
    await asyncio.sleep(0.5)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await templates.apply(body, tokenizer_with("x"), ANYBODY)).prompt == "x"


async def test_a_model_without_a_template() -> None:
    async with serving(None) as client:
        error = error_of(await client.post(URL, json={"messages": HELLO}))
    assert error["code"] == "no_chat_template"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": "Hello"}, "messages", "invalid_type"),
        ({"messages": ["Hello"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "", "content": "x"}]},
            "messages[0].role",
            "string_below_min_length",
        ),
        (
            {"messages": [{"role": "x" * 65, "content": "x"}]},
            "messages[0].role",
            "string_above_max_length",
        ),
        ({"messages": HELLO * 1025}, "messages", "array_above_max_length"),
        ({"messages": [{**HELLO[0], "name": "x"}]}, "messages[0].name", "unknown_parameter"),
        ({"messages": HELLO, "add_generation_prompt": 1}, "add_generation_prompt", "invalid_type"),
        # No template from requests.
        ({"messages": HELLO, "chat_template": "x"}, None, "unknown_parameter"),
        ({"messages": HELLO, "chat_template_kwargs": {"x": 1}}, None, "unknown_parameter"),
    ],
)
async def test_what_is_refused(body: dict[str, object], param: str | None, code: str) -> None:
    async with serving(PLAIN) as client:
        error = error_of(await client.post(URL, json=body))
    assert (error["param"], error["code"]) == (param, code)


async def test_the_model_of_a_request() -> None:
    async with serving(PLAIN) as client:
        response = await client.post(URL, json={"messages": HELLO, "model": "other"})
    assert response.status_code == 404


async def test_it_takes_a_key() -> None:
    async with serving(PLAIN, Settings(api_key="secret")) as client:  # type: ignore[arg-type]
        assert (await client.post(URL, json={"messages": HELLO})).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        answer = await client.post(URL, json={"messages": HELLO}, headers=headers)
        assert answer.status_code == 200


async def test_it_is_described() -> None:
    async with serving(PLAIN) as client:
        description = (await client.get("/openapi.json")).json()
    operation = description["paths"][URL]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = description["components"]["schemas"][reference.rpartition("/")[2]]
    assert schema["additionalProperties"] is False
    assert json.dumps(schema["properties"]["messages"])


async def test_its_process_has_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secrets in its environment, and files are not written: with a sandbox that is none."""
    own = Path(template_module.__file__).with_name("render.py").read_text()
    file = tmp_path / "written"
    prying = f"import os\nfile = lambda: open({str(file)!r}, 'w').write('x')\n"
    hole = "environment.globals.update(names=lambda: sorted(os.environ), write=file)\n    return"
    render = tmp_path / "render.py"
    head, tail = own.split("\n\n\n", 1)
    head += f"\n{prying}"
    render.write_text(f"{head}\n\n\n{tail.replace('return environment', f'{hole} environment')}")
    monkeypatch.setattr(template_module, "_RENDER", render)
    monkeypatch.setenv("OCTAVO_API_KEY", "secret")
    body = ApplyTemplateRequest.model_validate({"messages": HELLO})
    answer = await ChatTemplates().apply(body, tokenizer_with("{{ names() | join(' ') }}"), ANYBODY)
    assert "PYTHONPATH" in answer.prompt
    assert "OCTAVO_API_KEY" not in answer.prompt
    answer = await ChatTemplates().apply(body, tokenizer_with("{{ write() }}"), ANYBODY)
    assert answer.prompt == "1"  # a character that waits to be written, in vain
    assert file.read_text() == ""
