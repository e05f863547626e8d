"""What a command says while it works: on stderr, so that stdout holds the result alone."""

from __future__ import annotations

import sys
from pathlib import Path

from leo_edge.runtime.bundle import Bundle, open_bundle

_SHOWN_FROM_BYTES = 1 << 28


def say(message: str) -> None:
    """Prints a line of progress."""
    print(message, file=sys.stderr, flush=True)


def open_with_progress(directory: Path) -> Bundle:
    """Opens and verifies a bundle, counting what is hashed on a terminal if it takes more than a moment.

    Raises:
        BundleError: the bundle is not whole.
    """
    hashed = 0

    def count(num_bytes: int) -> None:
        nonlocal hashed
        hashed += num_bytes
        if hashed > _SHOWN_FROM_BYTES and sys.stderr.isatty():
            print(f"\rverifying {directory}: {hashed / 1e9:.1f} GB", end="", file=sys.stderr, flush=True)

    bundle = open_bundle(directory, on_bytes=count)
    if hashed > _SHOWN_FROM_BYTES and sys.stderr.isatty():
        print(file=sys.stderr)
    return bundle
