"""runtime/bundle.py: a bundle that opens is whole and unaltered, and the second opening does not hash it again."""

import hashlib
import json
import os
import pwd
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leo_edge.runtime.bundle import Bundle, open_bundle, sha256_of
from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.manifest import MANIFEST_NAME, BundleManifest, FileSpec
from tests.runtime.test_manifest import small_manifest

CONTENTS = {name: f"content of {name}".encode() for name in small_manifest().files}
SIZE_BYTES = sum(len(content) for content in CONTENTS.values())
LLM = "llm.onnx"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def write_bundle(directory: Path, contents: Mapping[str, bytes] = CONTENTS) -> BundleManifest:
    directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    files = {name: FileSpec(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
    manifest = replace(small_manifest(), files=files)
    (directory / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def open_and_count(directory: Path) -> int:
    """Opens a bundle and returns how many bytes were hashed for it."""
    pieces: list[int] = []
    open_bundle(directory, on_bytes=pieces.append)
    return sum(pieces)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def shift_time(path: Path, seconds: int) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


class TestOpen:
    def test_gives_the_manifest_and_the_files(self, tmp_path: Path) -> None:
        manifest = write_bundle(tmp_path / "bundle")
        bundle = open_bundle(tmp_path / "bundle")
        assert bundle.manifest == manifest
        assert bundle.path(LLM).read_bytes() == CONTENTS[LLM]
        assert bundle.size_bytes() == SIZE_BYTES

    def test_takes_a_path_as_text(self, directory: Path) -> None:
        assert open_bundle(str(directory)) == open_bundle(directory)

    def test_files_that_the_manifest_does_not_list_are_left_alone(self, directory: Path) -> None:
        (directory / "notes.txt").write_text("mine")
        assert "notes.txt" not in open_bundle(directory).manifest.files

    def test_id_is_the_hash_of_the_manifest(self, directory: Path) -> None:
        text = (directory / MANIFEST_NAME).read_bytes()
        assert open_bundle(directory).id == hashlib.sha256(text).hexdigest()[:12]

    def test_id_changes_with_any_content_and_with_nothing_else(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "a")
        write_bundle(tmp_path / "b")
        write_bundle(tmp_path / "c", CONTENTS | {LLM: flipped(CONTENTS[LLM])})
        first, same, other = (open_bundle(tmp_path / name).id for name in "abc")
        assert first == same
        assert first != other

    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"no bundle\.json in .*nowhere: expected a bundle"):
            open_bundle(tmp_path / "nowhere")

    def test_a_file_is_no_bundle(self, directory: Path) -> None:
        with pytest.raises(BundleError, match=r"cannot read .*llm\.onnx.bundle\.json"):
            open_bundle(directory / LLM)

    def test_manifest_that_is_not_text(self, directory: Path) -> None:
        (directory / MANIFEST_NAME).write_bytes(b"\xff\xfe{}")
        with pytest.raises(BundleError, match=r"cannot read .*bundle\.json: .*utf-8"):
            open_bundle(directory)

    def test_sha256_is_the_standard_one(self, tmp_path: Path) -> None:
        (tmp_path / "abc").write_bytes(b"abc")  # the first example of FIPS 180-4
        assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def test_large_files_are_hashed_in_pieces(self, tmp_path: Path) -> None:
        content, pieces = bytes(2**22 + 1), list[int]()
        (tmp_path / "large").write_bytes(content)
        assert sha256_of(tmp_path / "large", pieces.append) == hashlib.sha256(content).hexdigest()
        assert pieces == [2**22, 1]


class TestAltered:
    @pytest.mark.parametrize("name", CONTENTS)
    def test_missing_file(self, directory: Path, name: str) -> None:
        (directory / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing from the bundle .*: copy or export it again"):
            open_bundle(directory)

    @pytest.mark.parametrize("content", [b"", CONTENTS[LLM][:-1], CONTENTS[LLM] + b"\n"])
    def test_other_size_is_said_without_hashing(self, directory: Path, content: bytes) -> None:
        (directory / LLM).write_bytes(content)
        expected = rf"llm\.onnx has {len(content)} bytes, expected {len(CONTENTS[LLM])}: copy or export"
        with pytest.raises(BundleError, match=expected):
            open_bundle(directory)

    @pytest.mark.parametrize("name", CONTENTS)
    def test_flipped_byte(self, directory: Path, name: str) -> None:
        found = hashlib.sha256(flipped(CONTENTS[name])).hexdigest()[:12]
        (directory / name).write_bytes(flipped(CONTENTS[name]))
        with pytest.raises(BundleError, match=rf"{name} has SHA-256 {found}\.\.\., expected .*: it was altered"):
            open_bundle(directory)

    def test_a_bundle_that_was_refused_is_refused_again(self, directory: Path) -> None:
        (directory / LLM).write_bytes(flipped(CONTENTS[LLM]))
        for _ in range(2):
            with pytest.raises(BundleError, match="it was altered"):
                open_bundle(directory)
        (directory / LLM).write_bytes(CONTENTS[LLM])
        open_bundle(directory)

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        manifest = write_bundle(tmp_path / "bundle")
        (tmp_path / "bundle" / LLM).unlink()
        (tmp_path / "bundle" / LLM).mkdir()
        with pytest.raises(BundleError, match=r"llm\.onnx has \d+ bytes, expected"):
            open_bundle(tmp_path / "bundle")
        spec = replace(manifest.files[LLM], size_bytes=(tmp_path / "bundle" / LLM).stat().st_size)
        manifest = replace(manifest, files=dict(manifest.files) | {LLM: spec})
        (tmp_path / "bundle" / MANIFEST_NAME).write_text(manifest.to_json())
        with pytest.raises(BundleError, match=r"cannot read .*llm\.onnx: .*directory"):
            open_bundle(tmp_path / "bundle")


class TestLinks:
    def test_a_link_out_of_the_bundle_is_refused_although_its_content_fits(self, tmp_path: Path, directory: Path) -> None:
        (directory / LLM).rename(tmp_path / "outside.onnx")
        (directory / LLM).symlink_to(tmp_path / "outside.onnx")
        with pytest.raises(BundleError, match=r"llm\.onnx is a link out of the bundle .*: copy the file itself"):
            open_bundle(directory)

    def test_a_link_to_a_folder_beside_it_is_refused(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "bundle")
        (tmp_path / "engines").mkdir()
        (tmp_path / "engines" / "llm.plan").write_bytes(b"plan")
        (tmp_path / "bundle" / "engines").symlink_to("../engines")
        raw = json.loads((tmp_path / "bundle" / MANIFEST_NAME).read_text())
        raw["files"]["engines/llm.plan"] = {"size_bytes": 4, "sha256": hashlib.sha256(b"plan").hexdigest()}
        (tmp_path / "bundle" / MANIFEST_NAME).write_text(json.dumps(raw))
        with pytest.raises(BundleError, match=r"engines/llm\.plan is a link out of the bundle"):
            open_bundle(tmp_path / "bundle")

    def test_a_link_inside_the_bundle_passes(self, directory: Path) -> None:
        (directory / LLM).rename(directory / "llm-1.onnx")
        (directory / LLM).symlink_to("llm-1.onnx")
        open_bundle(directory)

    def test_the_bundle_itself_may_be_a_link(self, tmp_path: Path, directory: Path) -> None:
        (tmp_path / "current").symlink_to(directory)
        assert open_bundle(tmp_path / "current").id == open_bundle(directory).id

    def test_a_link_to_itself(self, directory: Path) -> None:
        (directory / LLM).unlink()
        (directory / LLM).symlink_to(LLM)
        with pytest.raises(BundleError, match=r"llm\.onnx"):
            open_bundle(directory)


class TestCache:
    def test_second_opening_hashes_nothing(self, directory: Path) -> None:
        assert open_and_count(directory) == SIZE_BYTES
        assert open_and_count(directory) == 0

    def test_another_bundle_of_the_same_name_is_hashed_and_remembered_beside_it(self, tmp_path: Path, directory: Path) -> None:
        open_and_count(directory)
        (tmp_path / "elsewhere").mkdir()
        write_bundle(tmp_path / "elsewhere" / directory.name)
        assert open_and_count(tmp_path / "elsewhere" / directory.name) == SIZE_BYTES
        assert [open_and_count(tmp_path / "elsewhere" / directory.name), open_and_count(directory)] == [0, 0]

    def test_a_touched_file_is_hashed_again_and_remembered_again(self, directory: Path) -> None:
        open_and_count(directory)
        shift_time(directory / LLM, 1)
        assert open_and_count(directory) == len(CONTENTS[LLM])
        assert open_and_count(directory) == 0

    def test_a_rewritten_file_is_not_hidden(self, directory: Path) -> None:
        open_and_count(directory)
        (directory / LLM).write_bytes(flipped(CONTENTS[LLM]))
        shift_time(directory / LLM, 1)
        with pytest.raises(BundleError, match=r"llm\.onnx has SHA-256 .*: it was altered"):
            open_bundle(directory)

    def test_a_replaced_file_of_the_same_size_and_time_is_not_hidden(self, directory: Path) -> None:
        open_and_count(directory)
        status = (directory / LLM).stat()
        (directory / "new").write_bytes(flipped(CONTENTS[LLM]))
        os.utime(directory / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
        (directory / "new").replace(directory / LLM)
        assert (directory / LLM).stat().st_mtime_ns == status.st_mtime_ns
        with pytest.raises(BundleError, match=r"llm\.onnx has SHA-256 .*: it was altered"):
            open_bundle(directory)

    def test_an_edit_in_place_that_sets_the_time_back_is_found(self, directory: Path) -> None:
        """By the change time, which no ordinary program sets back."""
        open_and_count(directory)
        status = (directory / LLM).stat()
        (directory / LLM).write_bytes(flipped(CONTENTS[LLM]))
        os.utime(directory / LLM, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(BundleError, match="it was altered"):
            open_bundle(directory)

    def test_a_manifest_that_expects_another_hash_is_checked_again(self, tmp_path: Path, directory: Path) -> None:
        open_and_count(directory)
        write_bundle(tmp_path / "other", CONTENTS | {LLM: flipped(CONTENTS[LLM])})
        (tmp_path / "other" / MANIFEST_NAME).replace(directory / MANIFEST_NAME)
        with pytest.raises(BundleError, match=r"llm\.onnx has SHA-256 .*: it was altered"):
            open_bundle(directory)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"llm.onnx": 3}', '{"llm.onnx": [0, 0, 0, ""]}'])
    def test_a_broken_cache_is_no_cache(self, directory: Path, cache_home: Path, text: str) -> None:
        open_and_count(directory)
        (entry,) = cache_home.rglob("*.json")
        entry.write_text(text)
        assert open_and_count(directory) == SIZE_BYTES
        assert open_and_count(directory) == 0

    def test_nothing_is_left_beside_the_cache(self, directory: Path, cache_home: Path) -> None:
        open_and_count(directory)
        assert [path.suffix for path in cache_home.rglob("*") if path.is_file()] == [".json"]

    def test_a_cache_that_cannot_be_written_costs_only_time(
        self, tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()  # a folder cannot be made below it, not even by root
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert [open_and_count(directory), open_and_count(directory)] == [SIZE_BYTES, SIZE_BYTES]

    def test_without_xdg_the_cache_is_in_the_home(
        self, tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        open_and_count(directory)
        assert list((tmp_path / "home" / ".cache" / "leo_edge").rglob("*.json"))
        assert open_and_count(directory) == 0

    def test_a_user_without_a_home(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A container's process may run as a number that has no name."""

        def nobody(uid: int) -> Any:
            raise KeyError(uid)

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(pwd, "getpwuid", nobody)
        assert open_and_count(directory) == SIZE_BYTES


def test_a_file_that_is_not_in_the_manifest_is_our_own_mistake(directory: Path) -> None:
    bundle: Bundle = open_bundle(directory)
    with pytest.raises(AssertionError, match=r"other\.onnx"):
        bundle.path("other.onnx")
