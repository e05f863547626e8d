"""replay/report.py: the page as a parser reads it. In a browser it is seen by test_report_in_browser.py."""

import base64
import io
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from leo_edge.replay.player import SimulatedClock
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.report import MOST_TIMELINES, choose_sets, timeline, write_report
from leo_edge.replay.run_files import Json, Run
from leo_edge.replay.source import Drive
from leo_edge.replay.summary import summarize
from leo_edge.runtime.bundle import Bundle
from tests.replay.drives import Asks, TimedPipeline, drive_of, keyframes, ref


@dataclass
class Source:
    drives: dict[str, Drive]

    def describe(self) -> dict[str, str]:
        return {"kind": "made up <b>"}

    def drive_names(self) -> tuple[str, ...]:
        return tuple(self.drives)

    def drive(self, name: str) -> Drive:
        return self.drives[name]


class Page(HTMLParser):
    """What a page holds: its text, images, elements, and everything that it would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.images, self.elements, self.links, self.open = "", list[str](), list[str](), list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if tag == "img" and name == "src":
                self.images.append(value or "")
            elif name in ("src", "href"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def replayed(source: Source, options: PlayOptions, encode_ms: float = 100, ask_ms: float = 100) -> Run:
    clock = SimulatedClock()
    replayer = Replayer(TimedPipeline(encode_ms, ask_ms, clock), Asks(2), options, clock)
    outcomes = [one for drive in source.drives.values() for one in replayer.replay(drive)]
    identity: Json = {
        "bundle": "bundle-1",
        "source": source.describe(),
        "drives": list(source.drives),
        "questions": "<script>alert(1)</script>",
        "play": options.to_json(),
    }
    return Run(identity, tuple(a for one in outcomes for a in one.answers), tuple(one.timing for one in outcomes))


def page_of(tmp_path: Path, run: Run, source: Source, note: str | None = None) -> tuple[Page, str]:
    provenance: dict[str, Any] = {} if note is None else {"note": note}
    bundle = cast("Bundle", SimpleNamespace(manifest=SimpleNamespace(provenance=provenance)))
    write_report(tmp_path / "report.html", run, summarize(run, Asks(2)) | {"scores": {}}, source, bundle)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    page.close()
    assert page.open == []
    return page, html


@pytest.fixture
def source() -> Source:
    return Source({name: keyframes(3, name=name) for name in ("one", "two")})


def test_shows_every_set_with_its_images_questions_and_answers(tmp_path: Path, source: Source) -> None:
    run = replayed(source, PlayOptions())
    page, _ = page_of(tmp_path, run, source)
    assert len(page.images) == 2 * 3 * 3
    for answer in run.answers:
        assert answer["answer"] in page.text
    assert "All 6 that were asked about" in page.text
    assert page.text.count("B, 10.0 ms old") == 6
    assert page.elements.count("svg") == 2


def test_needs_nothing_from_outside(tmp_path: Path, source: Source) -> None:
    page, html = page_of(tmp_path, replayed(source, PlayOptions()), source)
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert page.links == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in page.elements


def test_images_are_those_of_the_cameras(tmp_path: Path, source: Source) -> None:
    page, _ = page_of(tmp_path, replayed(source, PlayOptions()), source)
    picture = Image.open(io.BytesIO(base64.b64decode(page.images[0].partition(",")[2])))
    first = source.drive("one").frames[0].load().image
    assert picture.size == (first.shape[1], first.shape[0])
    assert abs(int(picture.convert("RGB").getpixel((0, 0))[0]) - int(first[0, 0, 0])) < 4  # type: ignore[index]


def test_text_from_outside_is_text(tmp_path: Path, source: Source) -> None:
    page, html = page_of(tmp_path, replayed(source, PlayOptions()), source, note="<i>knows nothing</i>")
    assert "<script>alert(1)</script>" in page.text
    assert "<i>knows nothing</i>" in page.text
    assert "<script>" not in html


def test_a_camera_without_an_image_is_shown_as_missing(tmp_path: Path) -> None:
    source = Source({"gap": drive_of(ref("A", 0, "k"), ref("C", 5, "k"), name="gap")})
    page, html = page_of(tmp_path, replayed(source, PlayOptions()), source)
    assert (len(page.images), page.elements.count("figure")) == (2, 3)
    assert html.count('<div class="missing">missing</div>') == 1


def test_of_many_sets_some_are_shown_evenly_spread(tmp_path: Path) -> None:
    source = Source({"long": keyframes(120, name="long")})
    run = replayed(source, PlayOptions())
    assert [line["set"] for line in choose_sets(run, 4)] == [0, 30, 60, 90]
    page, _ = page_of(tmp_path, run, source)
    assert len(page.images) == 50 * 3
    assert "50 of 120 that were asked about" in page.text


def test_of_many_drives_some_timelines_are_shown(tmp_path: Path) -> None:
    source = Source({f"drive-{i}": keyframes(2, name=f"drive-{i}") for i in range(9)})
    page, _ = page_of(tmp_path, replayed(source, PlayOptions()), source)
    assert page.elements.count("svg") == MOST_TIMELINES
    assert "6 of 9 drives." in page.text


def test_the_timeline_shows_waits_work_drops_and_misses(source: Source) -> None:
    run = replayed(source, PlayOptions(rate=1.0, deadline_ms=500), 300, 250)
    line = timeline("one", [one for one in run.sets if one["drive"] == "one"])
    assert line.seconds == pytest.approx(2.4)  # 800 ms of work each, 500 ms apart: the third waits
    assert [bar.outcome for bar in line.bars] == ["late", "late", "late"]
    scale = 1000 / 2400
    assert [round(bar.x / scale) for bar in line.bars] == [0, 500, 1000]
    assert [round(bar.wait / scale) for bar in line.bars] == [0, 300, 600]
    assert [round(bar.work / scale) for bar in line.bars] == [800, 800, 800]
