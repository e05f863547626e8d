"""replay/report.py in a real browser, where there is one: images and timelines are drawn, nothing is cut off or logged."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from leo_edge.replay.replayer import PlayOptions
from tests.replay.drives import drive_of, keyframes, ref
from tests.replay.test_report import Source, page_of, replayed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH_PX = 1366  # a small laptop's

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")

MEASURE = """<script>
const box = (one) => { const r = one.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
window.onload = () => { document.title = JSON.stringify({
  images: [...document.images].map((one) => ({natural: one.naturalWidth, box: box(one)})),
  bars: [...document.querySelectorAll("svg rect")].map(box), svgs: [...document.querySelectorAll("svg")].map(box),
  width: document.documentElement.scrollWidth, text: parseFloat(getComputedStyle(document.body).fontSize),
}); };
</script>"""


def browse(page: Path, *arguments: str) -> tuple[str, list[str]]:
    """Opens a page; returns its elements as they are after loading, and what it logged to the console."""
    assert BROWSER is not None
    given = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={WIDTH_PX},768"]
    command = [BROWSER, *given, *arguments, f"--user-data-dir={page.parent / 'profile'}", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


def measured(page: Path) -> dict[str, Any]:
    copy = page.with_name("measured.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    dom, console = browse(copy, "--dump-dom")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    measures: dict[str, Any] = json.loads(html.unescape(title.group(1)))
    return measures


@pytest.fixture
def page(tmp_path: Path) -> Path:
    source = Source({"one": keyframes(4, name="one"), "gap": drive_of(ref("A", 0, "k"), ref("C", 5, "k"), name="gap")})
    page_of(tmp_path, replayed(source, PlayOptions(rate=1.0, deadline_ms=600), 300, 250), source, note="made up")
    return tmp_path / "report.html"


def test_images_and_timelines_are_visible_on_a_laptop(page: Path) -> None:
    seen = measured(page)
    assert len(seen["images"]) == page.read_text().count("<img") > 3
    for image in seen["images"]:
        left, top, right, bottom = image["box"]
        assert image["natural"] > 0  # decoded
        assert 0 <= left < left + 250 < right <= WIDTH_PX
        assert bottom - top == pytest.approx((right - left) * 9 / 16, rel=0.01)
    assert len(seen["svgs"]) == 2
    for left, _, right, _ in seen["bars"]:
        assert any(svg[0] - 1 <= left <= right <= svg[2] + 1 for svg in seen["svgs"])
    assert max(right - left for left, _, right, _ in seen["bars"]) > 50
    assert seen["width"] <= WIDTH_PX
    assert seen["text"] >= 14


def test_nothing_is_logged(page: Path) -> None:
    assert browse(page, "--dump-dom")[1] == []
    page.write_text(page.read_text().replace("</body>", "<script>throw Error('boom')</script></body>"))
    assert "boom" in browse(page, "--dump-dom")[1][0]


def test_it_prints(page: Path) -> None:
    browse(page, f"--print-to-pdf={page.with_name('report.pdf')}")
    pdf = page.with_name("report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 10_000
