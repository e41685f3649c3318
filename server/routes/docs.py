"""/docs: what /openapi.json says, as a page for people.

It loads nothing from anywhere: it works without a network, and nobody else's script runs under this
server's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter()

_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "td,th{padding:.2em 1.5em .2em 0;text-align:left;vertical-align:top}"
    "h2{margin-top:2em;font-family:monospace}"
)
# Of a JSON schema, what bounds a value.
_BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse("\n".join(_page(request.app.openapi())), headers=_HEADERS)


def _page(description: dict[str, Any]) -> Iterator[str]:
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    schemas = description["components"]["schemas"]
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(description['info']['summary'])}. "
    yield 'For programs: <a href="openapi.json">openapi.json</a>.</p>'
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            if "requestBody" in operation:
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                yield from _fields(schemas[body["$ref"].rpartition("/")[2]])


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    yield "<table><tr><th>field</th><th>value</th><th>default</th></tr>"
    for name, field in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else ""
        if field.get("default") is not None:
            default = json.dumps(field["default"])
        cells = (f"<code>{escape(name)}</code>", escape(_kind(field)), escape(default))
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "anyOf" in schema:
        kinds = [_kind(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(filter(None, kinds)))
    if "$ref" in schema:
        return "object"
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    kind = str(schema.get("type", ""))
    if kind == "array":
        kind = f"array of {_kind(schema.get('items', {}))}"
    bounds = ", ".join(f"{bound} {schema[bound]}" for bound in _BOUNDS if bound in schema)
    return f"{kind} ({bounds})" if bounds else kind
