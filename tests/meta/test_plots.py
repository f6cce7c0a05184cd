"""The pictures: they are drawn from whatever a run can leave, and show what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

import tasks
from meta import plots
from meta.problems import MSE


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def has_colour(path, colour: str) -> bool:
    return bool((pixels(path) == ImageColor.getrgb(colour)).all(1).any())


def test_learning_curve_shows_training_validation_and_test(tmp_path):
    lines = [{"step": s, "train/loss": 1 / s, "train/accuracy": 1 - 1 / s} for s in range(1, 30)]
    lines[-1] |= {"val/loss": 0.2, "val/accuracy": 0.9, "val/ci95": 0.02}
    result = {"test/accuracy": 0.8, "test/ci95": 0.01, "test/tasks": 600}
    plots.learning_curve(lines, tmp_path / "a" / "curve.png", title="t", chance=0.2, result=result)
    for colour in (plots.BLUE, plots.ORANGE, plots.RED):
        assert has_colour(tmp_path / "a" / "curve.png", colour)


@pytest.mark.parametrize("line", [[], [{"step": 1, "train/loss": 1.0, "train/accuracy": None}]])
def test_learning_curve_is_drawn_of_almost_nothing(tmp_path, line):
    result = {"test/accuracy": 0.8, "test/ci95": None, "test/tasks": 1}
    plots.learning_curve(line, tmp_path / "curve.png", title="t", result=result)
    assert has_colour(tmp_path / "curve.png", plots.RED)
    assert not has_colour(tmp_path / "curve.png", plots.ORANGE)


@pytest.mark.parametrize(("ways", "shots", "queries"), [(2, 1, 1), (5, 1, 15), (20, 5, 2)])
def test_tasks_mark_right_and_wrong_predictions(tmp_path, ways, shots, queries):
    drawn = tasks.Glyphs(alphabets=4, characters=6).sampler(
        "train", ways=ways, shots=shots, queries=queries, seed=0
    )
    task = drawn.sample(0, 1)[0]
    right, wrong = tmp_path / "right.png", tmp_path / "wrong.png"
    plots.tasks([(task, task.query.y)], right, title="t")
    plots.tasks([(task, (task.query.y + 1) % ways)], wrong, title="t")

    def count(path, colour: str) -> int:
        return int((pixels(path) == ImageColor.getrgb(colour)).all(1).sum())

    assert count(right, plots.GREEN) > 2 * count(wrong, plots.GREEN)  # the legend has some of each
    assert count(wrong, plots.RED) > 2 * count(right, plots.RED)


def test_running_mean_of_a_line_is_the_line():
    values = np.full(50, 0.25)
    np.testing.assert_allclose(plots._running_mean(values), values)
    bent = plots._running_mean(np.arange(50.0))
    np.testing.assert_allclose(bent[5:-5], np.arange(50.0)[5:-5])
    assert torch.isfinite(torch.from_numpy(bent)).all()


def test_fits_show_support_queries_and_a_curve_for_each_step(tmp_path):
    task = tasks.Sinusoid().sampler("test", shots=5, queries=50, seed=0).sample(0, 1)[0]
    grid = torch.linspace(-5, 5, 40)[:, None]
    after = [torch.full_like(grid, float(k)) for k in range(3)]
    path = tmp_path / "fits.png"
    plots.fits([(task, grid, after)], torch.tensor([3.0, 2.0, 1.0]), path, title="t", error="e")
    assert has_colour(path, plots.RED)
    for k in range(3):
        shade = np.round(np.array(plots.shade(k, 2)[:3]) * 255)
        assert (np.abs(pixels(path) - shade).max(1) <= 1).sum() > 200, k


def test_learning_curve_of_an_error_is_one_panel(tmp_path):
    lines = [{"step": s, "train/loss": 1 / s, "train/mse": 1 / s} for s in range(1, 30)]
    lines[-1] |= {"val/loss": 0.2, "val/mse": 0.2, "val/ci95": 0.02}
    result = {"test/mse": 0.1, "test/ci95": 0.01, "test/tasks": 600}
    plots.learning_curve(lines, tmp_path / "one.png", title="t", chance=4.0, result=result, metric=MSE)
    plots.learning_curve([], tmp_path / "two.png", title="t")
    one, two = (len(pixels(tmp_path / f"{name}.png")) for name in ("one", "two"))
    assert one * 2 == two
    for colour in (plots.BLUE, plots.ORANGE, plots.RED, plots.GREY):
        assert has_colour(tmp_path / "one.png", colour)
