"""The page: its numbers are those of the runs, its marks those of the arms, and nothing in it comes from elsewhere."""

from __future__ import annotations

import json
import re
from datetime import datetime
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from meta.problems import ACCURACY, MSE
from meta.report import page, read
from meta.report.page import format_difference
from meta.report.parallel import Scale
from tests.meta.report.folders import TASKS, write_run, write_sweep

NOW = datetime(2026, 1, 31, 12)


class Seen(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [seen for name, seen in self.tags if name == tag and attributes.items() <= seen.items()]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return read(write_sweep(tmp_path_factory.mktemp("sweep")))


@pytest.fixture(scope="module")
def html(sweep) -> str:
    return page(sweep, now=NOW)


def row(html: str, arm: str) -> str:
    return re.search(rf'<tbody class="mark[^>]*data-arm="{arm}".*?</tbody>', html, re.DOTALL)[0]


def test_row_has_the_paired_difference_and_its_interval(html):
    """Arm 0's test score is 0.12 below that of arm 2 on every task: the interval has no width."""
    assert "−12.00 ± 0.00" in row(html, "0")
    assert f"{TASKS} tasks" in row(html, "0")
    assert 'class="whisker worse"' in row(html, "0")
    assert "compared with" in row(html, "2")
    assert "71.0% ±" in row(html, "2")


def test_failed_and_unfinished_arms_are_shown_as_such(html):
    assert "failed" in row(html, "6")
    assert "step 11: it broke &lt;b&gt;&amp; burnt&lt;/b&gt;" in row(html, "6")
    assert "unfinished" in row(html, "7")
    assert "last logged step: 30" in row(html, "7")
    assert "6 finished" in html


def test_summary_says_who_is_best_and_who_can_be_told_apart(html):
    summary = re.search(r'<p class="summary">(.*?)</p>', html, re.DOTALL)[1]
    assert summary.startswith("Arm 2 is the best by validation (72.0% ± 2.0) and reaches 71.0%")
    assert "all 5 other finished arms are clearly worse" in summary


def test_named_baseline_is_what_others_are_compared_with(sweep):
    html = page(sweep, baseline="0")
    assert "+12.00 ± 0.00" in row(html, "2")
    assert "Arm 0 is the baseline that was named" in html


def test_every_section_is_there_and_every_arm_in_every_figure(html):
    seen = Seen(html)
    assert {one["id"] for one in seen.all("section")} == {
        "arms", "seeds", "parallel", "curves", "inner-steps", "differences",
    }  # fmt: skip
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) == 4
    for figure, arms in zip(figures, ({*"01234567"}, {*"0123457"}, {*"01234567"}, {*"012345"}), strict=True):
        assert set(re.findall(r'<g class="mark" data-arm="([^"]*)"', figure)) == arms


def test_nothing_is_fetched(html):
    seen = Seen(html)
    for tag, attributes in seen.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed"), tag
        assert "src" not in attributes, tag
        assert (attributes.get("href") or attributes.get("xlink:href") or "#").startswith("#"), attributes
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert seen.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].startswith(
        "default-src 'none'"
    )
    assert len(html) < 250_000


def test_same_runs_give_the_same_page(sweep, html):
    assert page(sweep, now=NOW) == html


def test_odd_names_are_escaped_and_still_find_their_marks(tmp_path):
    odd = "<i>&'\"$x_1$</i>"
    write_run(tmp_path / "0", algorithm__inner_lr=odd)
    write_run(tmp_path / 'a "&b', algorithm__inner_lr="plain")
    html = page(read(tmp_path))
    assert "<i>&" not in html
    marks = {one.get("data-arm") for _, one in Seen(html).tags if one.get("class") == "mark"}
    assert marks == {"0", 'a "&b'}


def test_error_is_compared_as_an_error(tmp_path):
    for name, score in (("0", 2.0), ("1", 0.5)):
        write_run(tmp_path / name, val=score, test=score, metric=MSE, algorithm__inner_lr=score)
    html = page(read(tmp_path))
    assert "+1.500 ± 0.000" in row(html, "0")
    assert 'class="whisker worse"' in row(html, "0")
    assert "← better · worse →" in html


def test_arms_on_other_tasks_are_not_compared_in_pairs(tmp_path):
    write_run(tmp_path / "0", val=0.8)
    write_run(tmp_path / "1", val=0.7, checksums=range(100, 140))
    html = page(read(tmp_path))
    assert "Not compared in pairs, for want of common test tasks: 1." in html
    assert "whisker" not in row(html, "1")


@pytest.mark.parametrize(("file", "told"), [("stopped.json", "reason"), ("failure.json", "sentence")])
def test_arm_that_went_on_and_did_not_finish_is_not_compared_by_its_earlier_results(tmp_path, file, told):
    write_run(tmp_path / "0", val=0.8)
    write_run(tmp_path / "1", val=0.7)
    assert "whisker" in row(page(read(tmp_path)), "1")
    (tmp_path / "1" / file).write_text(json.dumps({told: "it ended here"}))
    html = page(read(tmp_path))
    assert "it ended here" in row(html, "1")
    assert "whisker" not in row(html, "1")
    assert "Not compared in pairs" not in html


def test_iterations_have_a_column_only_where_they_differ(tmp_path):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1")
    html = page(read(tmp_path))
    assert 'data-label="iterations"' not in html
    assert "Every arm was trained for 60 iterations." in html
    write_run(tmp_path / "2", lines=3)
    html = page(read(tmp_path))
    assert html.count('data-label="iterations"') == 3
    assert "Every arm was trained" not in html


def test_single_run_has_a_page_without_comparison(tmp_path):
    html = page(read(write_run(tmp_path / "run")))
    assert "This run reaches 70.0%" in html
    assert "compared with" not in html
    assert {one["id"] for one in Seen(html).all("section")} == {
        "arms",
        "curves",
        "inner-steps",
        "differences",
    }


@pytest.mark.parametrize(
    "state", [{"test": None}, {"val": None, "test": None, "lines": 0}, {"failure": "no room"}]
)
def test_sweep_in_which_nothing_has_finished_has_a_page(tmp_path, state):
    for name in "01":
        write_run(tmp_path / name, **state)
    assert "No arm has finished yet" in page(read(tmp_path))


def test_many_arms_and_settings_have_a_page(tmp_path):
    for number in range(30):
        write_run(
            tmp_path / str(number),
            val=0.5 + number / 100,
            algorithm__inner_lr=10.0 ** (-number / 10),
            seed=number,
        )
    html = page(read(tmp_path))
    assert len(Seen(html).all("tbody")) == 31  # and that of the differences


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([0.01, 0.1, 1.0], [0, 0.5, 1]),  # over decades
        ([1, 2, 3], [0, 0.5, 1]),
        ([True, False], [0, 1]),
        (["a", None, "b"], [0, 0.5, 1]),
        ([5], [0.5]),
    ],
)
def test_scale_places_values(values, places):
    scale = Scale(values)
    assert [scale.place(value) for value in values] == pytest.approx(places)
    assert all(0 <= place <= 1 for place, _ in scale.ticks())


def test_scale_s_ticks_keep_their_distance():
    scale = Scale([10.0 ** (-n / 5) for n in range(20)])
    places = sorted(place for place, _ in scale.ticks())
    assert len(places) >= 3
    assert min(b - a for a, b in pairwise(places)) > 0.06


def test_differences_are_said_in_points_of_a_fraction():
    assert format_difference(ACCURACY, -0.0123, 0.004) == "−1.23 ± 0.40"
    assert format_difference(MSE, 0.5, None) == "+0.500"
