"""report.html: one page that needs no network, with what each keyframe showed, what was asked and answered, and when."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from leo_edge.replay.run_files import Json, Run, set_key
from leo_edge.replay.score import is_correct
from leo_edge.replay.small_jpeg import small_jpeg
from leo_edge.replay.source import FrameSource, PlannedSet, plan_sets
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.frames import RgbImage
from leo_edge.runtime.whole_file import write_whole

MOST_SETS = 50
"""How many frame sets are shown with their images: the page stays under 15 MB."""
MOST_TIMELINES = 6
_CAMERA_PX = (320, 180)
_JPEG_QUALITY = 80
# Front cameras above, rear ones below, as one sits in the vehicle: left on the left.
_MOSAIC = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
_TIMELINE_WIDTH, _TIMELINE_ROW = 1000, 18


@dataclass(frozen=True)
class ShownCamera:
    """One camera of a mosaic: its image as a data URL (None: missing), and its age at the set's stamp."""

    channel: str
    image: str | None
    age_ms: float | None


@dataclass(frozen=True)
class ShownSet:
    """One frame set of the page."""

    drive: str
    timing: Json
    cameras: tuple[ShownCamera, ...]
    answers: tuple[Json, ...]


@dataclass(frozen=True)
class Bar:
    """A set on a drive's timeline, in the units of the drawing: from when it was there to when it was done with."""

    x: float
    wait: float
    work: float
    outcome: str
    title: str


@dataclass(frozen=True)
class Timeline:
    """A drive's sets over time; `seconds` is how long all of it took."""

    drive: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    seconds: float


def write_report(path: Path, run: Run, summary: Json, source: FrameSource, bundle: Bundle) -> None:
    """Writes the page.

    Raises:
        LeoEdgeError: an image that is to be shown can no longer be read.
    """
    chosen = choose_sets(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        run=run.identity,
        summary=summary,
        note=bundle.manifest.provenance.get("note"),
        sets=_shown(run, chosen, source),
        num_sets=len(_answered(run)),
        timelines=[timeline(name, lines) for name, lines in list(_by_drive(run.sets, chosen).items())[:MOST_TIMELINES]],
        width=_TIMELINE_WIDTH,
        row=_TIMELINE_ROW,
        is_correct=is_correct,
    )
    write_whole(path, page)


def choose_sets(run: Run, most: int = MOST_SETS) -> list[Json]:
    """Returns the lines of the sets that are shown: all that were answered, or `most` of them, evenly spread."""
    answered = _answered(run)
    if len(answered) <= most:
        return answered
    return [answered[i * len(answered) // most] for i in range(most)]


def timeline(drive: str, lines: Sequence[Json]) -> Timeline:
    """Puts a drive's sets on a line, its whole time on the width of the drawing."""
    ends_ms: list[float] = [line["done_ms"] if "done_ms" in line else line["ready_ms"] for line in lines]
    whole_ms = max(ends_ms) or 1.0
    scale = _TIMELINE_WIDTH / whole_ms
    bars = []
    for line, end_ms in zip(lines, ends_ms, strict=True):
        wait_ms = line.get("waited_ms", 0.0)
        work_ms = end_ms - line["ready_ms"] - wait_ms
        late = any(answer["late"] for answer in line.get("answers", ()))
        outcome = "late" if late else str(line["outcome"])
        title = f"set {line['set']}: {outcome}" + (f", waited {wait_ms:.0f} ms, worked {work_ms:.0f} ms" if work_ms else "")
        bars.append(Bar(line["ready_ms"] * scale, wait_ms * scale, max(1.0, work_ms * scale), outcome, title))
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300, 3600) if whole_ms / 1e3 / step <= 12 or step == 3600)
    ticks = tuple((i * step * 1e3 * scale, f"{i * step:g} s") for i in range(int(whole_ms / 1e3 / step) + 1))
    return Timeline(drive, tuple(bars), ticks, whole_ms / 1e3)


def _answered(run: Run) -> list[Json]:
    return [line for line in run.sets if line.get("answers")]


def _by_drive(lines: Sequence[Json], chosen: Sequence[Json]) -> dict[str, list[Json]]:
    """Returns all sets of the drives of which a set is shown."""
    shown = {line["drive"] for line in chosen}
    by_drive: dict[str, list[Json]] = defaultdict(list)
    for line in lines:
        if line["drive"] in shown:
            by_drive[line["drive"]].append(line)
    return by_drive


def _shown(run: Run, chosen: Sequence[Json], source: FrameSource) -> list[ShownSet]:
    answers = run.answers_by_set()
    shown = []
    for name, lines in _by_drive(chosen, chosen).items():
        planned = {one.number: one for one in plan_sets(source.drive(name))}
        shown += [ShownSet(name, line, _cameras(planned[line["set"]]), tuple(answers.get(set_key(line), []))) for line in lines]
    return shown


def _cameras(planned: PlannedSet) -> tuple[ShownCamera, ...]:
    frame_set = planned.load()
    order = [channel for channel in _MOSAIC if channel in planned.channels]
    order += [channel for channel in planned.channels if channel not in order]
    cameras = []
    for channel in order:
        frame = frame_set.frames.get(channel)
        age_ms = None if frame is None else (frame_set.stamp_ns - frame.stamp_ns) / 1e6
        cameras.append(ShownCamera(channel, None if frame is None else _data_url(frame.image), age_ms))
    return tuple(cameras)


def _data_url(image: RgbImage) -> str:
    """Returns a small JPEG of an image, as a URL that holds it."""
    jpeg, _ = small_jpeg(image, _CAMERA_PX, _JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
