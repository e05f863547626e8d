"""A directory that is written whole or not at all: a bundle, a checkpoint, a dataset."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leo_edge.runtime.errors import LeoEdgeError


@contextmanager
def new_directory(target: Path, error_class: type[LeoEdgeError]) -> Iterator[Path]:
    """Gives a temporary directory beside `target`, which becomes `target` if all went well and nothing if not.

    Raises:
        error_class: there is something at `target`, or its parent cannot be written.
    """
    if os.path.lexists(target):
        raise error_class(f"{target} exists already: remove it, or write to another directory")
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise error_class(f"cannot write to {target.parent}: {error}") from None
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
