"""A file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file in UTF-8, over what was there; after an error, what was there still is, and nothing else.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is gone, or never came to be
            temporary.unlink()
