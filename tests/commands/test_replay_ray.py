"""`leo-edge replay --ray local`: the answers of a local run, whatever becomes of the workers."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands.conftest import Replay
from tests.conftest import CommandLine

TWO_WORKERS = ("--ray", "local", "--ray-workers", "2")


def files(out: Path) -> bytes:
    return (out / "answers.jsonl").read_bytes()


def workers_at_work() -> set[int]:
    """Process ids of the workers that play a drive: Ray names a process after what it does."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            busy = (process / "cmdline").read_bytes().startswith(b"ray::play_part")
        except OSError:
            continue
        if busy and os.getuid() == process.stat().st_uid:
            found.add(int(process.name))
    return found


@contextmanager
def killing(most: int) -> Iterator[set[int]]:
    """Kills the first workers that play a drive, so many of them; gives their process ids."""
    killed: set[int] = set()
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and len(killed) < most:
            for worker in list(workers_at_work() - killed)[: most - len(killed)]:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_two_workers_give_the_summary_of_a_local_run(replay: Replay, tmp_path: Path) -> None:
    here, spread = replay(tmp_path / "here"), replay(tmp_path / "spread", *TWO_WORKERS)
    assert files(tmp_path / "spread") == files(tmp_path / "here")
    for key in ("run", "scores", "answers", "sets"):
        assert spread[key] == here[key]


def test_a_worker_that_is_killed_changes_nothing(replay: Replay, tmp_path: Path) -> None:
    here = replay(tmp_path / "here")
    with killing(most=1) as killed:
        spread = replay(tmp_path / "spread", *TWO_WORKERS)
    assert len(killed) == 1
    assert files(tmp_path / "spread") == files(tmp_path / "here")
    assert spread["scores"] == here["scores"]


@pytest.mark.slow
def test_a_drive_that_costs_every_worker_is_an_error_and_what_was_done_is_kept(
    error_line: CommandLine, replay: Replay, bundle: Path, world: Path, few_questions: Path, tmp_path: Path
) -> None:
    replay(tmp_path / "here")
    where = (bundle, "--nuscenes", world, "--questions", few_questions, "--max-new-tokens", "3", "--out", tmp_path / "spread")
    with killing(most=1000) as killed:
        message = error_line("replay", *where, "--ray", "local", "--ray-workers", "1")
    assert "a drive's worker was lost 4 times" in message
    assert len(killed) >= 4
    replay(tmp_path / "spread")
    assert files(tmp_path / "spread") == files(tmp_path / "here")


@pytest.mark.slow
def test_goes_on_with_a_run_that_was_begun_here(replay: Replay, tmp_path: Path) -> None:
    replay(tmp_path / "here")
    replay(tmp_path / "spread")
    timing = tmp_path / "spread" / "timing.jsonl"
    timing.write_bytes(b"".join(timing.read_bytes().splitlines(keepends=True)[:2]))
    replay(tmp_path / "spread", *TWO_WORKERS)
    assert files(tmp_path / "spread") == files(tmp_path / "here")


def test_a_broken_image_on_a_worker_is_named(
    error_line: CommandLine, bundle: Path, world: Path, few_questions: Path, tmp_path: Path
) -> None:
    image = sorted((world / "samples" / "CAM_BACK").iterdir())[-1]
    moved = image.rename(image.with_suffix(".moved"))
    where = (bundle, "--nuscenes", world, "--questions", few_questions, "--out", tmp_path / "run")
    message = error_line("replay", *where, *TWO_WORKERS)
    moved.rename(image)
    assert f"no image file {image}" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ray", "127.0.0.1:1"), "cannot reach a Ray cluster at 127.0.0.1:1"),
        (("--ray", "local", "--rate", "1"), "--rate asks what one vehicle computer does in time"),
        (("--ray", "local", "--ray-workers", "0"), "--ray-workers must be at least 1 and goes with --ray, got 0"),
        (("--ray-workers", "2"), "--ray-workers must be at least 1 and goes with --ray, got 2"),
    ],
)
def test_bad_input(
    error_line: CommandLine, bundle: Path, world: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    where = (bundle, "--nuscenes", world, "--questions", "builtin:driving", "--out", tmp_path / "run")
    assert message in error_line("replay", *where, *arguments)
