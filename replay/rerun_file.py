"""A run as a recording for the Rerun viewer (https://rerun.io): cameras, boxes, questions, answers and latencies over time."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from leo_edge.replay.run_files import AnswersBySet, Json, Run, set_key
from leo_edge.replay.score import is_correct
from leo_edge.replay.small_jpeg import small_jpeg
from leo_edge.replay.source import Box, Drive, FrameSource, PlannedSet, plan_sets
from leo_edge.runtime.frames import CameraFrame
from leo_edge.runtime.whole_file import whole_file

_CAMERA_PX = 800  # of an image's longer side
_JPEG_QUALITY = 85
_LATENCIES = ("waited_ms", "load_ms", "encode_ms")
_GAP_NS = 1_000_000_000  # between drives, on the timeline on which they follow each other

Log = Callable[..., None]
"""`RecordingStream.log`, with mistakes as exceptions."""


def write_rerun(path: Path, run: Run, source: FrameSource) -> None:
    """Writes a recording, over what was there; after an error, what was there still is.

    Its timelines are `stamp`, the drives' own time, and `replay`, on which they follow each other. Its entities are
    `ego/<CAMERA>`, with calibration where that is known, `ego/boxes`, `answers`, `latency/<STAGE>` in ms, and `log`.

    Raises:
        LeoEdgeError: an image can no longer be read.
        OSError: it cannot be written.
    """
    rr.set_strict_mode(True)  # a mistake is an exception, not a warning
    with whole_file(path) as temporary:
        temporary.touch()  # what cannot be written is Python's own OSError
        recording = rr.RecordingStream("leo_edge")
        recording.save(temporary, default_blueprint=_blueprint(_channels(run, source)))
        recording.log("ego", rr.ViewCoordinates.FLU, static=True)
        start_ns, answers = 0, run.answers_by_set()
        for name, lines in groupby(run.sets, key=lambda line: str(line["drive"])):
            start_ns = _log_drive(recording, source.drive(name), list(lines), answers, start_ns) + _GAP_NS
        recording.flush()
        recording.disconnect()


def _channels(run: Run, source: FrameSource) -> list[str]:
    drives = dict.fromkeys(str(line["drive"]) for line in run.sets)
    return list(dict.fromkeys(channel for name in drives for channel in source.drive(name).channels))


def _blueprint(channels: Sequence[str]) -> rrb.Blueprint:
    """How the viewer lays it out: the scene and the answers above, cameras in the middle, latencies below."""
    cameras = [
        rrb.Spatial2DView(origin=f"ego/{channel}", contents=["$origin/**", "/ego/boxes"], name=channel) for channel in channels
    ]
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(rrb.Spatial3DView(origin="ego", name="scene"), rrb.TextDocumentView(origin="answers")),
            rrb.Grid(*cameras, grid_columns=3),
            rrb.Horizontal(rrb.TimeSeriesView(origin="latency", name="latency, ms"), rrb.TextLogView(origin="log")),
            row_shares=[2, 3, 1],
        ),
    )


def _log_drive(recording: rr.RecordingStream, drive: Drive, lines: Sequence[Json], answers: AnswersBySet, start_ns: int) -> int:
    """Logs a drive from `start_ns` of the timeline `replay` on; returns when it ends there."""
    planned = {one.number: one for one in plan_sets(drive)}
    log = partial(recording.log, strict=True)
    for i, line in enumerate(lines):
        recording.set_time("stamp", timestamp=np.datetime64(line["stamp_ns"], "ns"))
        end_ns = start_ns + int(line["stamp_ns"] - lines[0]["stamp_ns"])
        recording.set_time("replay", duration=np.timedelta64(end_ns, "ns"))
        if i == 0:
            for entity in ("ego", "answers"):
                log(entity, rr.Clear(recursive=True))  # of the drive before
            log("log", rr.TextLog(f"drive {drive.name}", level=rr.TextLogLevel.INFO))
        if line["outcome"] == "dropped":
            text = f"set {line['set']} dropped, {line['unanswered']} questions unanswered"
            log("log", rr.TextLog(text, level=rr.TextLogLevel.WARN))
        else:
            _log_set(log, drive, planned[line["set"]], line, answers.get(set_key(line), []))
    return end_ns


def _log_set(log: Log, drive: Drive, planned: PlannedSet, line: Json, answers: Sequence[Json]) -> None:
    frames = planned.load().frames
    for channel in drive.channels:
        if channel in frames:
            _log_camera(log, f"ego/{channel}", frames[channel])
        else:
            log(f"ego/{channel}", rr.Clear(recursive=False))
            log("log", rr.TextLog(f"set {line['set']} has no image of {channel}", level=rr.TextLogLevel.WARN))
    log("ego/boxes", _boxes(() if planned.sample is None else drive.boxes(planned.sample)))
    log("answers", rr.TextDocument(_markdown(answers), media_type=rr.MediaType.MARKDOWN))
    late = sum(answer["late"] for answer in line["answers"])
    if late:
        log("log", rr.TextLog(f"set {line['set']}: {late} answers after the deadline", level=rr.TextLogLevel.WARN))
    latencies = {name: line[name] for name in _LATENCIES}
    if line["answers"]:
        latencies["answers_ms"] = sum(answer["answer_ms"] for answer in line["answers"])
    for name, value_ms in latencies.items():
        log(f"latency/{name.removesuffix('_ms')}", rr.Scalars(value_ms))


def _log_camera(log: Log, entity: str, frame: CameraFrame) -> None:
    """Logs a camera's image, small enough for a recording, and its calibration in the same pixels."""
    jpeg, (width, height) = small_jpeg(frame.image, (_CAMERA_PX, _CAMERA_PX), _JPEG_QUALITY)
    log(entity, rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))
    if frame.intrinsic is not None and frame.sensor_from_ego is not None:
        scale = np.diag([width / frame.width, height / frame.height, 1.0])
        log(entity, rr.Pinhole(image_from_camera=scale @ frame.intrinsic, resolution=(width, height)))
        ego_from_sensor = np.linalg.inv(frame.sensor_from_ego)
        log(entity, rr.Transform3D(translation=ego_from_sensor[:3, 3], mat3x3=ego_from_sensor[:3, :3]))


def _boxes(boxes: Sequence[Box]) -> rr.Boxes3D:
    return rr.Boxes3D(
        centers=[box.center_m for box in boxes],
        sizes=[box.size_m for box in boxes],
        quaternions=[(*box.rotation_wxyz[1:], box.rotation_wxyz[0]) for box in boxes],  # xyzw
        labels=[box.category for box in boxes],
        class_ids=[zlib.crc32(box.category.encode()) % 2**16 for box in boxes],  # a colour of its own for each category
    )


def _markdown(answers: Sequence[Json]) -> str:
    """Returns questions and answers as the viewer shows them; an answer that is not the truth is followed by it."""
    return "\n\n".join(
        f"{_plain(answer['question'])}\n\n**{_plain(answer['answer'])}** {_verdict(answer)}" for answer in answers
    )


def _verdict(answer: Json) -> str:
    truth = answer["truth"]
    if truth is None:
        return ""
    return "(right)" if is_correct(answer["answer"], truth) else f"(truth: {_plain(truth)})"


def _plain(text: str) -> str:
    """Returns text on one line in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))
