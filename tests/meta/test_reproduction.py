"""Verdicts on published numbers: their intervals in closed form, their words, and the page that they make."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import stdev

import pytest
import torch

from meta.evaluate import Record, half_width
from meta.problems import ACCURACY, MSE
from meta.reproduction import Published, aggregate, in_words, page, read_results, verdict
from meta.task_results import Results
from tests.meta.cli.test_commands import call

ROOT = Path(__file__).parents[2]
PAPER = Published(0.987, 0.004, "a paper, table 1")


def results(scores: torch.Tensor, checksums: range | None = None) -> Results:
    rows = torch.stack([torch.zeros_like(scores), scores], 1)
    numbers = torch.tensor(list(checksums or range(len(scores))))
    return Results(Path("x.safetensors"), Record(rows, rows, numbers), {"metric": "accuracy"})


def test_intervals_over_tasks_and_over_seeds_are_apart():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 50, generator=generator, dtype=torch.float64)
    found = aggregate([results(one) for one in scores])
    assert found.score == pytest.approx(float(scores.mean()))
    assert found.over_tasks == pytest.approx(half_width(scores.mean(0)))
    assert found.over_seeds == pytest.approx(1.96 * stdev(scores.mean(1).tolist()) / math.sqrt(3))
    assert found.ci95 == pytest.approx(math.hypot(found.over_tasks, found.over_seeds))
    alone = aggregate([results(scores[0])])
    assert (alone.over_seeds, alone.ci95) == (None, alone.over_tasks)
    with pytest.raises(ValueError, match="different test tasks"):
        aggregate([results(scores[0]), results(scores[1], range(1, 51))])


@pytest.mark.parametrize(
    ("score", "ci95", "word"),
    [
        (0.985, 0.004, "reproduced"),
        (0.995, 0.004, "above"),
        (0.975, 0.004, "below"),
        (0.985, 0.02, "not enough evidence"),
    ],
)
def test_words(score, ci95, word):
    found = verdict(PAPER, score, ci95, ACCURACY)
    assert found.word == word
    assert found.ci95 == pytest.approx(math.hypot(ci95, 0.004))
    assert found.z == pytest.approx((score - 0.987) / (math.hypot(ci95, 0.004) / 1.96))


def test_an_error_is_reproduced_to_a_tenth_and_what_is_unpublished_counts_as_certain():
    paper = Published(0.8, None, "a paper")
    assert verdict(paper, 0.75, 0.06, MSE).word == "reproduced"
    assert verdict(paper, 0.75, 0.09, MSE).word == "not enough evidence"
    assert verdict(paper, 0.5, 0.09, MSE).word == "below"


def test_better_and_worse_are_said():
    assert in_words("below", MSE) == "below, which is better"
    assert in_words("below", ACCURACY) == "below, which is worse"
    assert in_words("above", ACCURACY) == "above, which is better"
    assert in_words("reproduced", MSE) == "reproduced"


def test_true_numbers_are_called_different_in_one_of_twenty():
    generator = torch.Generator().manual_seed(0)
    ours = 0.987 + 0.003 / 1.96 * torch.randn(4000, generator=generator, dtype=torch.float64)
    theirs = 0.987 + 0.004 / 1.96 * torch.randn(4000, generator=generator, dtype=torch.float64)
    words = [
        verdict(PAPER._replace(score=float(b)), float(a), 0.003, ACCURACY).word
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert 0.04 < sum(word in ("above", "below") for word in words) / len(words) < 0.06


@pytest.mark.slow
def test_a_cell_is_run_gone_on_with_and_put_on_the_page(tmp_path, omniglot_dir):
    small = [
        "trainer.iterations=2", "trainer.meta_batch=2", "trainer.checkpoint_every=1", "trainer.val_tasks=2",
        "evaluation.tasks=4", "model.hidden=4", "device=cpu",
    ]  # fmt: skip
    arguments = [
        "name=maml_omniglot_5w1s", "seeds=2", f"data_dir='{omniglot_dir}'", f"overrides='{' '.join(small)}'",
        "page=page.md",
    ]  # fmt: skip
    done = call(tmp_path, "reproduce", *arguments)
    assert done.code == 0, done.stderr
    (found,) = read_results(tmp_path / "reproductions" / "results")
    assert (found["seeds"], found["tasks"], found["iterations"], found["verdict"]) == (2, 4, 2, "below")
    assert set(small) - set(found["changed"]) == {"device=cpu", "trainer.checkpoint_every=1"}
    own = json.loads((tmp_path / "reproductions" / "maml_omniglot_5w1s" / "0" / "published.json").read_text())
    assert own["test/tasks"] == 4
    text = (tmp_path / "page.md").read_text()
    assert "| **below, which is worse** | 2 | 2 iterations," in text
    assert "**changed**: trainer.iterations=2" in text
    assert "| maml_omniglot_20w1s | 0.958 (Finn" in text
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.safetensors")}
    again = call(tmp_path, "reproduce", *arguments)
    assert again.code == 0, again.stderr
    assert trained == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.safetensors")}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to do: give name=..., one of fomaml_omniglot_20w1s"),
        (
            ["name=maml_sinusoid"],
            "name=maml_sinusoid has no published number; choose one of fomaml_omni",
        ),
        (["name=maml_omniglot_5w1s", "seeds=0"], "seeds=0 must be an integer of 1 or more."),
    ],
)
def test_what_cannot_be_reproduced_is_refused_in_one_sentence(tmp_path, arguments, sentence):
    done = call(tmp_path, "reproduce", *arguments)
    assert (done.code, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(f"error: {sentence}")


def test_page_has_a_row_a_result_and_one_for_what_waits():
    row = {
        "experiment": "x", "metric": "accuracy", "published": PAPER._asdict(), "score": 0.985, "ci95": 0.005,
        "over_tasks": 0.003, "over_seeds": None, "difference": -0.002, "difference_ci95": 0.006, "z": -0.6,
        "verdict": "reproduced", "seeds": 1, "iterations": 60000, "hours": 2.5, "device": "a processor",
        "configuration": "c" * 64, "data": "d" * 64, "commit": "e" * 40, "changed": [],
    }  # fmt: skip
    text = page([row], {"y": PAPER}, "commands\n")
    assert (
        "| x | 98.70% ± 0.40 (a paper, table 1) | 98.50% | ± 0.30 |  | -0.20 ± 0.60 | -0.6 | **reproduced** |"
        in text
    )
    assert (
        "60,000 iterations, 2.5 h, a processor; configuration cccccccc, data dddddddd, commit eeeeeeee |"
        in text
    )
    assert "| y | 0.987 (a paper, table 1) |" in text


def test_the_page_of_the_docs_is_made_of_the_results_beside_it(tmp_path):
    done = call(ROOT, "reproduce", "results=docs/reproduced", f"page={tmp_path / 'page.md'}")
    assert done.code == 0, done.stderr
    made = (tmp_path / "page.md").read_text().replace(str(tmp_path / "page.md"), "docs/reproduced.md")
    assert made == (ROOT / "docs" / "reproduced.md").read_text()
