"""SECURITY.md names tests as proof: they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
PROOFS = re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE)


def test_every_proof_is_a_test() -> None:
    assert len(PROOFS) > 20
    for file, name in PROOFS:
        tree = ast.parse((ROOT / file).read_text())
        names = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        } | {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert name in names, f"{file}::{name}"


def test_each_promise_has_a_proof_or_says_that_it_has_none() -> None:
    promises = re.split(r"^\d\. ", PAGE.partition("## Promises")[2], flags=re.MULTILINE)[1:]
    assert len(promises) == 9
    for promise in promises:
        assert PROOFS and ("::" in promise or "ot yet" in promise), promise


def test_files_it_names_exist() -> None:
    for path in re.findall(r"`((?:server|engine|docs|deploy)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
