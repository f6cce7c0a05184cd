"""The report as a user makes it, and its page as a real browser shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.meta.cli.test_commands import Done, call
from tests.meta.report.folders import write_run, write_sweep

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MEASURE = """
<script>
  const root = document.documentElement;
  root.dataset.overflow = root.scrollWidth - root.clientWidth;
  document.querySelector('.arms [data-sort="1"]').click();
  root.dataset.order = [...document.querySelectorAll(".arms tbody")].map((body) => body.dataset.arm).join(" ");
  const cell = document.querySelector('.arms tbody[data-arm="4"] td');
  cell.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  root.dataset.looked = [...document.querySelectorAll("svg .mark.looked")].map((mark) => mark.dataset.arm).join(" ");
  // Tables that do not fit, and texts of figures that a line of an arm runs through.
  root.dataset.scrolling = [...document.querySelectorAll(".scroll:not(:has(.keep))")].filter(
    (box) => box.scrollWidth > box.clientWidth).length;
  root.dataset.cards = document.querySelectorAll("table.arms.cards").length;
  const inside = (box, point) => box.left < point.x && point.x < box.right && box.top < point.y && point.y < box.bottom;
  root.dataset.crossed = [...document.querySelectorAll("figure svg")].flatMap((svg) => {
    const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    const lines = [...svg.querySelectorAll(".mark path")].filter((path) => !path.closest("defs"));
    const points = lines.flatMap((path) => {
      const [length, place] = [path.getTotalLength(), path.getScreenCTM()];
      return Array.from({ length: 400 }, (_, k) => path.getPointAtLength(length * k / 399).matrixTransform(place));
    });
    root.dataset.points = Number(root.dataset.points ?? 0) + points.length;
    return texts.filter(([, box]) => points.some((point) => inside(box, point))).map(([text]) => text);
  }).join(" ");
  root.dataset.broken = [...document.querySelectorAll("figure svg")].filter((svg) => svg.getBBox().width < 100).length;
</script>
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def report(sweep) -> Path:
    done = call(sweep.parent, "report", str(sweep))
    assert done.code == 0, done.stderr
    assert done.stdout == f"{sweep / 'report.html'}: 8 arms\n"
    return sweep / "report.html"


def test_report_lies_where_it_is_asked_for(sweep, tmp_path):
    done = call(tmp_path, "report", str(sweep), "--out", "there/page.html", "--baseline", "3")
    assert (done.code, done.stderr) == (0, "")
    assert "Arm 3 is the baseline that was named" in (tmp_path / "there" / "page.html").read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("report", ["nowhere"], "error: nowhere is no folder; name the folder of a sweep or of a run."),
        ("report", ["."], "error: . holds no runs: neither it nor a folder in it has .hydra/ or record.json."),
        ("report", ["runs", "--baseline", "9"], "error: baseline 9 is no finished arm of runs; expected one of a, b"),
        ("paired", ["nowhere", "runs"], "error: nowhere is not a folder; name the folders of two runs."),
        ("paired", ["runs/a", "runs/b", "--name", "mine"], "error: runs/a and runs/b do not both hold mine.saf"),
        ("paired", ["runs/a", "runs/c"], "error: runs/a/test.safetensors and runs/c/test.safetensors have no task"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(tmp_path, name, arguments, sentence):
    (tmp_path / "empty").mkdir()
    if arguments != ["."]:
        write_run(tmp_path / "runs" / "a")
        write_run(tmp_path / "runs" / "b")
    if "runs/c" in arguments:
        write_run(tmp_path / "runs" / "c", checksums=range(100, 110))
    done = call(tmp_path, name, *arguments)
    assert done.code == 1
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.html"))


def browser(tmp_path: Path, page: Path, *options: str, width: int = 1280) -> Done:
    """A headless browser on a page. Without one the test is skipped, or fails where NEO_REQUIRE_BROWSER is set."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = f"none of {', '.join(BROWSERS)} is installed; apt-get install chromium"
        (pytest.fail if os.environ.get("NEO_REQUIRE_BROWSER") else pytest.skip)(reason)
    done = subprocess.run(
        [
            found, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
            "--log-level=0", "--virtual-time-budget=3000", "--force-device-scale-factor=1", "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2600", *options, page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def complaints(done: Done) -> list[str]:
    """What the page had the browser say in its console: errors of scripts, refused fetches and styles."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def root(done: Done) -> dict[str, str]:
    """The data-... attributes of <html> once scripts have run."""
    return dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<html[^>]*>", done.stdout)[0]))


@pytest.mark.parametrize("width", [1600, 1000, 500])
def test_page_loads_runs_and_fits_in_a_browser(report, tmp_path, width):
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", MEASURE + "</body>"))
    done = browser(tmp_path, page, "--dump-dom", width=width)
    assert done.code == 0, done.stderr[-2000:]
    assert not complaints(done)
    seen = root(done)
    assert seen["ready"] == "yes"
    assert seen["overflow"] == "0"
    assert seen["broken"] == "0"
    assert seen["scrolling"] == "0"
    assert seen["cards"] == ("1" if width == 500 else "0")
    assert seen["crossed"] == ""
    assert int(seen["points"]) > 10_000
    # Sorted by test score, those without one last; and what lies under the pointer stands out in every figure.
    assert seen["order"].split()[:6] == ["2", "5", "3", "4", "1", "0"]
    assert set(seen["order"].split()[6:]) == {"6", "7"}
    assert seen["looked"].split() == ["4"] * len(seen["looked"].split())
    assert len(seen["looked"].split()) >= 4
    assert len(re.findall(r"<svg", done.stdout)) == 4


def test_table_that_is_wider_than_the_page_becomes_cards(tmp_path):
    """Six settings, one of them long: they fit at no width, and nothing has to be scrolled for."""
    for number in range(3):
        names = ("adapt", "inner_steps", "first_order", "meta_gradient", "truncated_steps")
        settings = {f"algorithm__{name}_of_some_length": f"value-{number}" for name in names}
        write_run(
            tmp_path / "runs" / str(number), algorithm__inner_lr="[0.1, 0.2, 0.3]" * (number + 1), **settings
        )
    assert call(tmp_path, "report", "runs").code == 0
    page = tmp_path / "page.html"
    html = (tmp_path / "runs" / "report.html").read_text()
    page.write_text(html.replace("</body>", MEASURE.replace('data-arm="4"', 'data-arm="2"') + "</body>"))
    done = browser(tmp_path, page, "--dump-dom", width=1000)
    assert not complaints(done)
    seen = root(done)
    assert (seen["overflow"], seen["scrolling"], seen["cards"], seen["crossed"]) == ("0", "0", "1", "")


def test_browser_would_complain_of_a_page_with_a_fault(report, tmp_path):
    """So that the test above can fail: an error in a script, and a picture from elsewhere."""
    for fault in ("<script>undefinedFunction();</script>", '<img src="https://127.0.0.1:9/x.png">'):
        page = tmp_path / "page.html"
        page.write_text(report.read_text().replace("</body>", fault + "</body>"))
        assert complaints(browser(tmp_path, page, "--dump-dom"))


@pytest.mark.parametrize("width", [1280, 500])
def test_screenshot_shows_a_page_and_not_a_blank(report, tmp_path, width):
    picture = tmp_path / "page.png"
    done = browser(tmp_path, report, f"--screenshot={picture}", width=width)
    assert done.code == 0, done.stderr[-2000:]
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[1] == width
    assert 0.02 < (pixels.min(axis=2) < 200).mean() < 0.5  # ink on paper
    for colour in (
        0x0072B2,
        0xD55E00,
        0x009E73,
    ):  # of the first arms, in the table and, where there is room, figures
        wanted = np.array([colour >> 16, colour >> 8 & 255, colour & 255])
        assert (np.abs(pixels.astype(int) - wanted).max(axis=2) < 12).sum() > 60
    rows_with_ink = (pixels.min(axis=2) < 200).any(axis=1)
    assert rows_with_ink[:1800].mean() > 0.4  # from top to bottom, not in one corner
