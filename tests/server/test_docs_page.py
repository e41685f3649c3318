"""/docs is for people, wherever they are."""

from __future__ import annotations

from html.parser import HTMLParser

from fake_engine import FakeEngine
from live_app import live_app


class Page(HTMLParser):
    """What it loads or leads to, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links |= {value or "" for name, value in attrs if name in ("src", "href", "action")}

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


async def test_it_loads_nothing_and_runs_nothing() -> None:
    """Without a network it is whole, and nobody else's script may ask this server."""
    async with live_app(FakeEngine()) as client:
        response = await client.get("/docs")
        described = (await client.get("/openapi.json")).json()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page(response.text)
    assert page.links == {"openapi.json"}
    assert not page.tags & {"script", "iframe", "img", "link"}
    for path, operations in described["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}\n" in page.text
    for field in described["components"]["schemas"]["CompletionRequest"]["properties"]:
        assert f"\n{field}\n" in page.text
    assert "\ninteger (minimum 0, maximum 20)\n" in page.text
