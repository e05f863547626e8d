"""Writes a dataset, several processes drawing: whole or absent, and the same bytes however many processes there are."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from leo_edge.demo.dataset.names import LIDAR, VERSION, lidar_file, map_file, scene_name
from leo_edge.demo.dataset.plan import DatasetOptions
from leo_edge.demo.dataset.record import Job, Recorded, record, scored_questions
from leo_edge.demo.dataset.road_map import drivable_mask
from leo_edge.demo.dataset.tables import Record, scene_rows
from leo_edge.demo.dataset.taxonomy import fixed_rows
from leo_edge.demo.questions.sets import PER_TYPE, choose_set
from leo_edge.demo.training.drawing import Asking
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import SPLITS, Scene, make_scene, split_of
from leo_edge.replay.question_set import QuestionSet, write_question_set
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.new_directory import new_directory

RecordAll = Callable[[Sequence[Job]], Iterator[Recorded]]


@dataclass(frozen=True)
class Report:
    """What was written. `images_per_s` counts the images of the dataset over all the time that writing it took."""

    num_scenes: int
    num_keyframes: int
    num_images: int
    num_annotations: int
    num_questions: dict[str, int]
    num_in_doubt: int
    size_bytes: int
    seconds: float
    images_per_s: float
    processes: int


def write_dataset(directory: Path, options: DatasetOptions, *, processes: int) -> Report:
    """Writes a dataset in nuScenes format, with a progress bar on stderr.

    Raises:
        DatasetError: something is already at `directory`, it cannot be written, or a drawing process died.
    """
    if processes < 1:
        raise DatasetError(f"--processes must be at least 1, got {processes}")
    started = time.perf_counter()
    with new_directory(directory, DatasetError) as root, _drawing(processes) as record_all:
        _make_folders(root, options)
        tables = fixed_rows(options.size_px)
        questions = {split: _Questions(options, split) for split in SPLITS}
        asked_of: list[Asking] = []
        for scene, recorded in _scenes(root, options, record_all):
            asked_of += [one.asking for one in recorded]
            _write_scene_files(root, scene, recorded)
            for table, rows in scene_rows(scene, options, recorded).items():
                tables.setdefault(table, []).extend(rows)
            questions[split_of(scene.index)].add(scene, recorded)
        for table, rows in tables.items():
            _write_rows(root / VERSION / f"{table}.json", rows)
        if options.scored_only:
            _write_scored(root / "questions" / f"{options.split}-scored.json", options, asked_of)
        for split, asked in questions.items():
            (root / "questions" / f"{split}.json").write_text(asked.to_json(), encoding="utf-8")
        size_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    seconds = time.perf_counter() - started
    return Report(
        num_scenes=options.num_scenes,
        num_keyframes=len(tables["sample"]),
        num_images=options.num_images,
        num_annotations=len(tables["sample_annotation"]),
        num_questions={split: len(asked.asked) for split, asked in questions.items()},
        num_in_doubt=sum(asked.in_doubt for asked in questions.values()),
        size_bytes=size_bytes,
        seconds=seconds,
        images_per_s=options.num_images / seconds,
        processes=processes,
    )


@dataclass
class _Questions:
    """The questions of one split, as they are gathered."""

    options: DatasetOptions
    split: str
    scenes: list[str] = field(default_factory=list)
    num_keyframes: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    in_doubt: int = 0

    def add(self, scene: Scene, recorded: Sequence[Recorded]) -> None:
        """Adds those of a scene."""
        self.scenes.append(scene_name(scene.index))
        self.num_keyframes += len(recorded)
        for one in recorded:
            self.asked += one.questions
            self.in_doubt += one.asking.in_doubt

    def to_json(self) -> str:
        """Returns NuScenes-QA's form, and where the questions are from."""
        info = {
            "world": {"seed": self.options.seed, "split": self.split, "scenes": self.scenes},
            "num_keyframes": self.num_keyframes,
            "num_questions": len(self.asked),
            "num_left_out_in_doubt": self.in_doubt,
        }
        rows = ",\n".join(map(json.dumps, self.asked))
        return f'{{"info": {json.dumps(info)},\n"questions": [\n{rows}\n]}}\n'


def _scenes(root: Path, options: DatasetOptions, record_all: RecordAll) -> Iterator[tuple[Scene, list[Recorded]]]:
    """Draws everything; yields each scene with its keyframes as it is done, in order."""
    jobs = [Job(root, options, scene, keyframe) for scene in options.scenes for keyframe in options.keyframes(scene)]
    with tqdm(total=options.num_images, unit="image", desc="drawing", disable=None) as bar:
        recorded: list[Recorded] = []
        for job, done in zip(jobs, record_all(jobs), strict=True):
            bar.update(len(list(options.shots(job.keyframe))))
            recorded.append(done)
            if len(recorded) == len(options.keyframes(job.scene)):
                yield make_scene(options.seed, job.scene), recorded
                recorded = []


@contextmanager
def _drawing(processes: int) -> Iterator[RecordAll]:
    """Gives what records jobs in order, in this process if it is one; no other process is at work afterwards."""
    if processes == 1:
        yield lambda jobs: map(record, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_leave_interrupts)
    try:
        yield lambda jobs: pool.map(record, jobs)
    except BrokenProcessPool:
        raise DatasetError("a drawing process was killed: run it again, with fewer --processes if memory is short") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C is for the process that waits for all others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_folders(root: Path, options: DatasetOptions) -> None:
    folders = [VERSION, "maps", "questions", *(f"samples/{channel}" for channel in (*RIG, LIDAR))]
    if not options.keyframes_only:
        folders += [f"sweeps/{channel}" for channel in RIG]
    for folder in folders:
        (root / folder).mkdir(parents=True)


def _write_scene_files(root: Path, scene: Scene, recorded: Sequence[Recorded]) -> None:
    for one in recorded:
        (root / lidar_file(scene.seed, scene.index, one.keyframe)).touch()
    Image.fromarray(drivable_mask(scene)).save(root / map_file(scene.seed, scene.index), compress_level=9)


def _write_scored(path: Path, options: DatasetOptions, asked: Sequence[Asking]) -> None:
    """Writes the questions that `leo-edge demo score` asks about these scenes."""
    questions = scored_questions(asked, choose_set(asked, PER_TYPE, options.seed), options.seed)
    write_question_set(path, QuestionSet(tuple(questions), {"world": {"seed": options.seed, "split": options.split}}))


def _write_rows(path: Path, rows: Sequence[Record]) -> None:
    """Writes a table, one row a line."""
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
