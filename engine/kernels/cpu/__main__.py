"""`python -m engine.kernels.cpu [FOLDER]`: compile the kernels for every processor of this
architecture, so that a server needs no compiler and starts at once. Container images do.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from engine.kernels.cpu.build import COMPILED_AHEAD, BuildError, compile_ahead
from engine.kernels.cpu.variants import variants


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.kernels.cpu", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=COMPILED_AHEAD,
        help="where to put the libraries; they are used from %(default)s",
    )
    folder: Path = parser.parse_args().folder
    known = variants(platform.machine())
    if not known:
        print(f"no instruction sets are known for {platform.machine()}", file=sys.stderr)
        return 1
    try:
        for variant in known:
            print(compile_ahead(folder, variant), flush=True)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
