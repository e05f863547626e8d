"""Opening a bundle: manifest, sizes and hashes. A bundle that opened is whole and unaltered.

Hashing a large bundle takes many seconds, so what was found true is remembered per file with the file's size, modification
and change times and inode in the user's cache directory; a file that changed in any of them is hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.manifest import MANIFEST_NAME, BundleManifest, FileSpec, parse_manifest

_CHUNK_BYTES = 1 << 22
Seen = dict[str, list[int | str]]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `id` is the beginning of its manifest's SHA-256, which covers all its files' hashes."""

    directory: Path
    manifest: BundleManifest
    id: str

    def path(self, name: str) -> Path:
        """Returns the path of a file that the manifest lists."""
        assert name in self.manifest.files, name
        return self.directory / name

    def size_bytes(self) -> int:
        """Returns the bytes of all files that the manifest lists."""
        return sum(spec.size_bytes for spec in self.manifest.files.values())


def open_bundle(directory: str | os.PathLike[str], *, on_bytes: Callable[[int], None] = lambda _: None) -> Bundle:
    """Reads and verifies a bundle. `on_bytes` is told of every piece that is hashed.

    Raises:
        BundleError: the manifest is unreadable or of another format, or a file is missing, altered or outside the directory.
    """
    directory = Path(directory)
    try:
        text = (directory / MANIFEST_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleError(f"no {MANIFEST_NAME} in {directory}: expected a bundle, as `leo-edge export` writes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read {directory / MANIFEST_NAME}: {error}") from None
    manifest = parse_manifest(text)
    _verify_files(directory, manifest, on_bytes)
    return Bundle(directory, manifest, hashlib.sha256(text.encode()).hexdigest()[:12])


def _verify_files(directory: Path, manifest: BundleManifest, on_bytes: Callable[[int], None]) -> None:
    cache = _cache_path(directory)
    seen = _read_cache(cache)
    verified: Seen = {}
    for name, spec in manifest.files.items():
        path = directory / name
        try:
            if not path.resolve().is_relative_to(directory.resolve()):
                raise BundleError(f"{name} is a link out of the bundle {directory}: copy the file itself")
            status = path.stat()
        except (OSError, RuntimeError):  # RuntimeError: a link to itself, before Python 3.13
            raise BundleError(f"{name} is missing from the bundle {directory}: copy or export it again") from None
        stamp: list[int | str] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, spec.sha256]
        if seen.get(name) != stamp:
            _verify_file(path, name, spec, status.st_size, on_bytes)
        verified[name] = stamp
    if verified != seen:
        _write_cache(cache, verified)


def _verify_file(path: Path, name: str, spec: FileSpec, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
    if size_bytes != spec.size_bytes:
        raise BundleError(f"{name} has {size_bytes} bytes, expected {spec.size_bytes}: copy or export the bundle again")
    try:
        found = sha256_of(path, on_bytes)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error}") from None
    if found != spec.sha256:
        raise BundleError(
            f"{name} has SHA-256 {found[:12]}..., expected {spec.sha256[:12]}...: it was altered; copy or export it again"
        )


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Returns the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()


def _cache_path(directory: Path) -> Path | None:
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in a container that runs under a bare number
        return None
    return root / "leo_edge" / "verified" / f"{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]}.json"


def _read_cache(path: Path | None) -> Seen:
    """Returns what was verified before, or nothing: the cache only saves time."""
    if path is None:
        return {}
    try:
        seen = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return seen if isinstance(seen, dict) else {}


def _write_cache(path: Path | None, seen: Seen) -> None:
    """Remembers what was verified; on a read-only system the next opening takes as long as this one."""
    if path is None:
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(seen), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        return
