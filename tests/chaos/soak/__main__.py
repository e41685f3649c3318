"""`make soak`: 10,000 random requests at the engine's seam and over HTTP; a line for each part."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(TESTS.parent), str(TESTS)]  # in place of this folder

from chaos.soak.over_http import soak_over_http  # noqa: E402
from chaos.soak.seam import soak_at_the_seam  # noqa: E402

SHARE_OF_HTTP = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="in all")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most, in all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    share = (1 - SHARE_OF_HTTP) / 2
    for max_launches in (1, 2):
        part = soak_at_the_seam(
            int(options.requests * share), options.seconds * share, options.seed, max_launches
        )
        print(asyncio.run(part), flush=True)
    part = soak_over_http(
        int(options.requests * SHARE_OF_HTTP), options.seconds * SHARE_OF_HTTP, options.seed
    )
    print(asyncio.run(part), flush=True)


if __name__ == "__main__":
    main()
