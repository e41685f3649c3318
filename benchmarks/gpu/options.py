"""The options that every part has."""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def parser(doc: str | None) -> argparse.ArgumentParser:
    """With `--out`, `--device` and `--quick`; `doc` is the part's own docstring."""
    options = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for the JSON")
    options.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    return options


def add_engine_options(options: argparse.ArgumentParser) -> None:
    """What parts with Octavo's engine in them have besides."""
    options.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options.add_argument(
        "--max-launches",
        type=int,
        help="1: no step before the last one's tokens; default: as served",
    )
    options.add_argument(
        "--limit-s", type=float, default=380.0, help="of all cases; one that takes long is cut off"
    )


class TimeLeft:
    """Shares what is left of a limit, in seconds, among the cases that are left."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.perf_counter() + limit_s

    def share(self, num_cases: int) -> float:
        """Seconds for the next one of `num_cases`."""
        return max(0.0, self._end - time.perf_counter()) / num_cases
