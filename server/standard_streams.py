"""Standard input, output and error, in whatever state the server was started with them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_NUMBERS = range(3)


def open_standard_streams() -> None:
    """Have those that are closed lead nowhere.

    Their numbers would go to whatever is opened next: what the engine writes to its log would then
    be read by somebody's client.
    """
    for number in _NUMBERS:
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number, which is this one; the engine inherits it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def tell(text: str) -> None:
    """Lines for the operator on standard error; lost if its disk is full or its reader gone."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")  # at once: other threads write there too
        sys.stderr.flush()
