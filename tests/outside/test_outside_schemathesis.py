"""Schemathesis asks for all that /openapi.json allows, and for what it does not: the description is
true, and nothing is a server error. The engine is made up, everything in front of it is real.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from byte_tokenizer import byte_tokenizer
from client_environments import CLEAN, SCHEMATHESIS
from fake_engine import FakeEngine
from live_app import live_app

from server.settings import Settings

# The first time the environment is made takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent


async def test_the_description_is_true(tmp_path: Path) -> None:
    python = await asyncio.to_thread(SCHEMATHESIS.python)
    engine = FakeEngine(lambda request, index: list(b"hello"))
    tokenizer: Any = byte_tokenizer(fill_in_middle=True)
    tokenizer.description = replace(tokenizer.description, chat_template="{{ messages }}")
    async with live_app(engine, Settings(model_alias_any=True), tokenizer) as client:
        process = await asyncio.create_subprocess_exec(
            python.parent / "st",
            f"--config-file={HERE / 'schemathesis.toml'}",
            "run",
            f"{client.base_url}/openapi.json",
            "--mode=all",
            "--generation-allow-x00=true",
            "--generation-database=none",
            "--checks=all",
            "--max-examples=60",
            "--seed=1",
            "--continue-on-failure",
            "--request-timeout=60",
            "--suppress-health-check=all",
            "--no-color",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
            env=CLEAN | {"SCHEMATHESIS_HOOKS": str(HERE / "checks" / "valid_data.py")},
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output[-10000:]
        assert engine.is_idle
        assert (await client.get("/health")).status_code == 200
    [num_cases] = re.findall(r"(\d+) generated", output)
    assert int(num_cases) > 1000
    print(f"{num_cases} cases")
