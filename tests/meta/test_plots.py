"""The pictures: they are drawn from whatever a run can leave, show what they should, and cover none of it."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageColor

import tasks
from meta import plots
from meta.plots import canvas, classification, curves, regression
from meta.plots.canvas import BLUE, GREEN, GREY, ORANGE, RED
from meta.problems import ACCURACY, MSE

LINES = [{"step": s, "train/loss": 1 / s, "train/accuracy": 1 - 1 / s} for s in range(1, 30)]
LINES[-1] |= {"val/loss": 0.2, "val/accuracy": 0.9, "val/ci95": 0.02}
ERRORS = [{"step": s, "train/loss": 9 / s, "train/mse": 9 / s} for s in range(1, 30)]
RESULT = {"test/accuracy": 0.8, "test/mse": 0.3, "test/ci95": 0.01, "test/tasks": 600}

STEMS = ("curve", "error", "tasks", "fits", "inner")  # of what draw_all() draws


@pytest.fixture
def figures(monkeypatch):
    """The figures of the pictures drawn in a test, as they are laid out for their files, which are not written."""
    drawn = []

    def keep(figure, path):
        canvas.lay_out(figure)
        drawn.append(figure)

    for module in (classification, curves, regression):
        monkeypatch.setattr(module, "save", keep)
    return drawn


@pytest.fixture
def png(monkeypatch):
    """Pictures as PNG alone: half a second less for each."""
    monkeypatch.setattr(canvas, "FORMATS", {"png": canvas.FORMATS["png"]})


def image(path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def pixels(path) -> np.ndarray:
    return image(path).reshape(-1, 3)


def has_colour(path, colour: str) -> bool:
    return bool((pixels(path) == ImageColor.getrgb(colour)).all(1).any())


def place(figure, artist):
    return artist.get_window_extent(FigureCanvasAgg(figure).get_renderer())


def glyphs(ways=5, shots=1, queries=15, count=1):
    drawn = tasks.Glyphs(alphabets=4, characters=6).sampler(
        "train", ways=ways, shots=shots, queries=queries, seed=0
    )
    return [(task, task.query.y) for task in drawn.sample(0, count)]


def sinusoids(count=1, steps=2, scale=1.0):
    """Tasks, with fits that are lines at 0, scale, 2 · scale ..."""
    grid = torch.linspace(-5, 5, 40)[:, None]
    fits = [torch.full_like(grid, scale * k) for k in range(steps + 1)]
    drawn = tasks.Sinusoid().sampler("test", shots=5, queries=50, seed=0).sample(0, count)
    return [(task, grid, fits) for task in drawn]


def draw_all(folder, title="MAML (Conv4) on glyphs, 5-way 1-shot"):
    plots.learning_curve(LINES, folder / "curve.png", title=title, chance=0.2, result=RESULT)
    plots.learning_curve(ERRORS, folder / "error.png", title=title, chance=4.25, result=RESULT, metric=MSE)
    plots.tasks(glyphs(), folder / "tasks.png", title=title)
    plots.fits(sinusoids(), torch.tensor([3.0, 2, 1]), folder / "fits.png", title=title, error="e")
    plots.inner_steps(
        [(0.2, 0.01, 1.6), (0.6, 0.02, 0.9)], folder / "inner.png", title=title, metric=ACCURACY, chance=0.2
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with one of each."""
    folder = tmp_path_factory.mktemp("plots")
    draw_all(folder, title="cost in $ and € of x_1$")
    return folder


@pytest.mark.parametrize("stem", STEMS)
def test_every_picture_is_for_screen_and_paper_with_text_as_text(written, stem):
    assert image(written / f"{stem}.png").shape[1] > 800
    root = ET.parse(written / f"{stem}.svg").getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "cost in $ and € of x_1$" in " ".join(filter(None, texts))
    pdf = (written / f"{stem}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/CIDFontType2" in pdf  # TrueType
    assert b"/Type3" not in pdf


def test_same_picture_drawn_later_has_the_same_bytes(written, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")  # as a run's log is
    monkeypatch.setenv(
        "SOURCE_DATE_EPOCH", "2000000000"
    )  # the time, to matplotlib and to what sets fonts into PDF
    draw_all(tmp_path, title="cost in $ and € of x_1$")
    assert len([*written.iterdir()]) == len(STEMS) * 3
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
    assert not caplog.records


def test_legend_and_titles_cover_no_panel_and_stay_inside(tmp_path, figures):
    draw_all(
        tmp_path, title="first-order MAML++ (conv4_maxpool_of_my_own) on a_data_set_of_mine, 5-way 1-shot"
    )
    assert len(figures) == 5
    for figure in figures:
        (legend,) = figure.legends
        box, frame = place(figure, legend), figure.bbox
        titles = [place(figure, figure._suptitle), *(place(figure, axes.title) for axes in figure.axes)]
        for axes in figure.axes:
            assert box.y1 <= axes.bbox.y0
            assert not axes.bbox.overlaps(titles[0])
        for one in (box, titles[0]):
            assert one.x0 >= frame.x0
            assert one.x1 <= frame.x1
            assert one.y0 >= frame.y0
            assert one.y1 <= frame.y1
        for one, other in itertools.combinations([box, *(one for one in titles if one.width > 0)], 2):
            assert not one.overlaps(other)


@pytest.mark.parametrize("queries", [1, 15])
def test_titles_of_large_tasks_side_by_side_do_not_meet(tmp_path, figures, queries):
    pictured = glyphs(ways=20, queries=queries, count=3)
    plots.tasks(pictured, tmp_path / "tasks.png", title="MAML (Conv4) on glyphs, 20-way 1-shot")
    (figure,) = figures
    assert "8 of 20 classes shown" in figure.axes[0].get_title()
    boxes = [place(figure, text) for text in (figure._suptitle, *(axes.title for axes in figure.axes))]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert boxes[1].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1


def test_learning_curve_shows_training_validation_and_test(tmp_path, png):
    path = tmp_path / "a" / "curve.png"
    plots.learning_curve(LINES, path, title="t", chance=0.2, result=RESULT)
    for colour in (BLUE, ORANGE, RED):
        assert has_colour(path, colour)


@pytest.mark.parametrize("line", [[], [{"step": 1, "train/loss": 1.0, "train/accuracy": None}]])
def test_learning_curve_is_drawn_of_almost_nothing(tmp_path, png, line):
    result = RESULT | {"test/ci95": None}
    plots.learning_curve(line, tmp_path / "curve.png", title="t", result=result)
    assert has_colour(tmp_path / "curve.png", RED)
    assert not has_colour(tmp_path / "curve.png", ORANGE)


@pytest.mark.parametrize("broken", [None, float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_left_out_and_counted(tmp_path, figures, broken):
    lines = [{"step": s, "train/loss": 1 / s, "train/accuracy": 1 - 1 / s} for s in range(1, 100)]
    for line in lines[10:31]:
        line["train/loss"] = broken
    plots.learning_curve(lines, tmp_path / "curve.png", title="t", result=RESULT | {"test/accuracy": None})
    loss, accuracy = figures[0].axes
    assert loss.get_title() == "not finite at 21 of 99 logged steps"
    assert accuracy.get_title() == ""
    dots = loss.lines[0]
    assert len(dots.get_xdata()) == 78
    assert np.isfinite(loss.lines[1].get_ydata()).all()
    named = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert named == ["training meta-batch", "training, running mean of 9", "test, not finite"]


def test_loss_that_explodes_leaves_the_others_to_be_seen(tmp_path, figures):
    lines = [dict(line) for line in LINES]
    lines[20]["train/loss"] = 1e18
    plots.learning_curve(lines, tmp_path / "curve.png", title="t")
    plots.learning_curve(LINES, tmp_path / "other.png", title="t")
    exploded, calm = (figure.axes[0] for figure in figures)
    assert (exploded.get_yscale(), calm.get_yscale()) == ("log", "linear")
    below, above = exploded.get_ylim()
    assert below < 1 / 29
    assert above > 1e18
    shown = [label.get_text() for label in exploded.get_yticklabels()]
    assert not any("$" in text for text in shown)
    assert curves.running_mean(np.array([1.0] * 30 + [1e18] + [1.0] * 30))[-1] == 1.0


@pytest.mark.parametrize("metric", [ACCURACY, MSE])
def test_losses_below_zero_are_seen(tmp_path, figures, metric):
    """As a negative log-likelihood is, once it is good."""
    key = "mse" if metric is MSE else "loss"
    lines = [{"step": s, f"train/{key}": 3.0 - 0.2 * s} for s in range(1, 30)]
    plots.learning_curve(lines, tmp_path / "curve.png", title="t", metric=metric)
    axes = figures[0].axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < 3.0 - 0.2 * 29


@pytest.mark.parametrize("points", [1, 2, 3, 29, 400])
def test_running_mean_begins_where_its_points_do(tmp_path, figures, points):
    values = 5.0 * 0.8 ** np.arange(points)  # steep at first, as training is
    lines = [{"step": 10 * (k + 1), "train/mse": value} for k, value in enumerate(values)]
    plots.learning_curve(lines, tmp_path / "curve.png", title="t", metric=MSE)
    dots, mean = figures[0].axes[0].lines[:2]
    assert mean.get_xdata()[0] == dots.get_xdata()[0] == 10
    assert mean.get_xdata()[-1] == dots.get_xdata()[-1]
    assert mean.get_ydata()[0] == pytest.approx(dots.get_ydata()[0])
    low, high = figures[0].axes[0].get_xlim()
    assert low <= 10
    assert high >= 10 * points


def test_running_mean_of_a_line_is_the_line():
    values = np.full(50, 0.25)
    np.testing.assert_allclose(curves.running_mean(values), values)
    straight = curves.running_mean(np.arange(50.0))
    np.testing.assert_allclose(straight[:-5], np.arange(50.0)[:-5])
    assert straight[-1] == pytest.approx(48.0)  # the mean of the last three


def test_learning_curve_of_an_error_is_one_panel(tmp_path, png):
    lines = [dict(line) for line in ERRORS]
    lines[-1] |= {"val/loss": 0.2, "val/mse": 0.2, "val/ci95": 0.02}
    plots.learning_curve(lines, tmp_path / "one.png", title="t", chance=4.0, result=RESULT, metric=MSE)
    plots.learning_curve([], tmp_path / "two.png", title="t")
    one, two = (image(tmp_path / f"{name}.png").shape[1] for name in ("one", "two"))
    assert one * 2 == two
    for colour in (BLUE, ORANGE, RED, GREY):
        assert has_colour(tmp_path / "one.png", colour)


def test_many_dots_are_an_image_in_svg(tmp_path):
    def size(count):
        lines = [{"step": s, "train/mse": 1 + s % 7} for s in range(1, count)]
        plots.learning_curve(lines, tmp_path / "curve.png", title="t", metric=MSE)
        return (tmp_path / "curve.svg").read_text().count("<use")

    assert size(1500) > 1500
    assert size(5000) < 200


@pytest.mark.parametrize(("ways", "shots", "queries"), [(2, 1, 1), (5, 1, 15), (20, 5, 2)])
def test_tasks_mark_right_and_wrong_predictions(tmp_path, png, ways, shots, queries):
    ((task, _),) = glyphs(ways, shots, queries)
    right, wrong = tmp_path / "right.png", tmp_path / "wrong.png"
    plots.tasks([(task, task.query.y)], right, title="t")
    plots.tasks([(task, (task.query.y + 1) % ways)], wrong, title="t")

    def count(path, colour: str) -> int:
        return int((pixels(path) == ImageColor.getrgb(colour)).all(1).sum())

    assert count(right, GREEN) > 2 * count(wrong, GREEN)  # the legend has some of each
    assert count(wrong, RED) > 2 * count(right, RED)


def flat_task(colours: torch.Tensor, size=(8, 8)) -> tasks.Task:
    """A class of one support and one query image for each colour (classes, channels)."""
    x = colours[:, :, None, None].expand(-1, -1, *size)
    y = torch.arange(len(colours))
    return tasks.Task(tasks.Batch(x, y), tasks.Batch(x, y))


@pytest.mark.parametrize(
    ("colours", "seen"),
    [
        ([[1.0, 0, 0], [0, 0.2, 1]], [(255, 0, 0), (0, 51, 255)]),  # RGB
        (
            [[-2.0, 0, 0], [0, 2, 2]],
            [(0, 128, 128), (128, 255, 255)],
        ),  # normalised: between least and largest
        ([[1.0, 0, 0, 1], [0, 0, 1, 1]], [(255, 0, 0), (0, 0, 255)]),  # RGBA
        ([[1.0], [0.2]], [(0, 0, 0), (204, 204, 204)]),  # ink on paper
        ([[0.2, 0.6], [0, 0.4]], [(102, 102, 102), (51, 51, 51)]),  # the mean of two
        ([[float("nan"), 0, 0], [0, float("inf"), 1]], [(0, 0, 0), (0, 255, 255)]),
    ],
)
def test_images_have_their_colours(tmp_path, png, colours, seen):
    task = flat_task(torch.tensor(colours))
    plots.tasks([(task, task.query.y)], tmp_path / "tasks.png", title="t")
    for colour in seen:
        assert (np.abs(pixels(tmp_path / "tasks.png") - np.array(colour)).max(1) <= 1).sum() > 2000, colour


def test_images_keep_their_proportions(tmp_path, png):
    task = flat_task(torch.tensor([[1.0, 0, 0], [1, 0, 0]]), size=(10, 20))
    plots.tasks([(task, task.query.y)], tmp_path / "tasks.png", title="t")
    red = (np.abs(image(tmp_path / "tasks.png").astype(int) - (255, 0, 0)).max(2) <= 1).nonzero()
    columns = np.unique(red[1])
    width = np.diff(np.flatnonzero(np.diff(columns, prepend=-9) > 1), append=len(columns))  # of each image
    rows = np.unique(red[0])
    height = np.diff(np.flatnonzero(np.diff(rows, prepend=-9) > 1), append=len(rows))
    assert (len(width), len(height)) == (2, 2)
    assert width[0] / height[0] == pytest.approx(2, rel=0.1)


def test_fits_show_support_queries_and_a_curve_for_each_step(tmp_path, png):
    path = tmp_path / "fits.png"
    plots.fits(sinusoids(), torch.tensor([3.0, 2.0, 1.0]), path, title="t", error="e")
    assert has_colour(path, RED)
    for k in range(3):
        shade = np.round(np.array(regression.shade(k, 2)[:3]) * 255)
        assert (np.abs(pixels(path) - shade).max(1) <= 1).sum() > 200, k


@pytest.mark.parametrize("scale", [1e3, 1e18, 3e38, float("inf"), float("nan")])
def test_fits_that_diverged_leave_the_frame_to_the_points(tmp_path, figures, scale):
    drawn = sinusoids(count=3)
    diverged = [(task, grid, [fits[0], fits[1] * scale, fits[1]]) for task, grid, fits in drawn]
    errors = torch.tensor([3.0, scale, 1.0])
    plots.fits(diverged, errors, tmp_path / "fits.png", title="t", error="e")
    *panels, last = figures[0].axes
    for axes, (task, _, _) in zip(panels, drawn, strict=True):
        y = torch.cat([task.support.y, task.query.y])
        low, high = axes.get_ylim()
        assert low < float(y.min())
        assert high > float(y.max())
        assert high - low < 2.5 * float(y.max() - y.min()) + 2  # the fit at 0 may widen it
        assert ("outside the frame after 1 step" if np.isfinite(scale) else "not finite after 1 step") in (
            axes.get_title()
        )
    if np.isfinite(scale):
        assert last.get_yscale() == "log"
        assert last.get_ylim()[0] < 1
        assert last.get_ylim()[1] > scale
    else:
        assert last.get_title() == "e\nnot finite after 1 step"


def test_values_of_errors_cover_neither_their_line_nor_each_other(tmp_path, figures):
    for errors in ([3.26, 1.17, 1.07, 0.96, 0.92, 0.9], [1.0, 2.0, 4.0, 8.0], [0.5], [1.0] * 21):
        drawn = sinusoids(steps=len(errors) - 1)
        plots.fits(drawn, torch.tensor(errors), tmp_path / "fits.png", title="t", error="e")
        figure = figures[-1]
        last = figure.axes[-1]
        points = last.transData.transform(np.column_stack([np.arange(len(errors)), errors]))
        boxes = [place(figure, text) for text in last.texts]
        assert len(boxes) == min(len(errors), 6)
        for box in boxes:
            assert box.y1 <= figure.bbox.y1
            assert box.x1 <= figure.bbox.x1
            assert not box.overlaps(place(figure, last.title))
            for share in np.linspace(0, 1, 50):  # along the line
                line = points[:-1] * (1 - share) + points[1:] * share
                assert not any(box.contains(*point) for point in [*line, *points])
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)


def test_metric_says_large_errors_in_few_figures():
    assert MSE.format(277477347754234.625, 283212700854930.4) == "2.77e+14 ± 2.83e+14"
    assert MSE.format(99999.0) == "99999.000"
    assert not re.search("e", ACCURACY.format(1.0, 0.01))
