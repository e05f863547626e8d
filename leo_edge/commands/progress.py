"""What a command says while it works: on stderr, so that stdout holds the result alone."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """Prints a line of progress."""
    print(message, file=sys.stderr, flush=True)
