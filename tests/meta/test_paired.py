"""Per-task results: read back as they were written, and compared task by task."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from meta.evaluate import Evaluation, Record
from meta.paired import difference
from meta.problems import ACCURACY, MSE
from meta.task_results import ResultsError, load, write


def evaluation(scores: list[list[float]], checksums: list[int]) -> Evaluation:
    """scores: for each task, after each inner step."""
    table = torch.tensor(scores, dtype=torch.float64)
    record = Record(table, 1 - table, torch.tensor(checksums))
    return Evaluation(record.scores[:, -1], record.losses[:, -1], record)


def kept(path: Path, scores: list[list[float]], checksums: list[int], metric=ACCURACY, **protocol):
    write(path, evaluation(scores, checksums), metric, {"part": "test", "protocol": protocol})
    return load(path)


def test_results_come_back_as_they_were_written(tmp_path):
    results = kept(tmp_path / "a.safetensors", [[0.2, 0.6], [0.4, 1.0]], [7, -9], ways=5)
    assert (results.tasks, results.steps, results.metric) == (2, 1, ACCURACY)
    assert results.about["protocol"] == {"ways": 5}
    assert results.record.checksums.tolist() == [7, -9]
    first, last = results.by_step()
    assert first.score == pytest.approx(0.3)
    assert (last.score, last.loss) == (pytest.approx(0.8), pytest.approx(0.2))
    assert last.ci95 == pytest.approx(1.96 * 0.2 * math.sqrt(2) / math.sqrt(2))


def test_difference_is_the_mean_over_tasks_with_its_paired_interval(tmp_path):
    one = kept(tmp_path / "a.safetensors", [[0.1], [0.5], [0.9], [0.3]], [1, 2, 3, 4])
    other = kept(tmp_path / "b.safetensors", [[0.2], [0.7], [0.9], [0.2]], [1, 2, 3, 4])
    found = difference(one, other)
    differences = [0.1, 0.2, 0.0, -0.1]
    deviation = math.sqrt(sum((d - 0.05) ** 2 for d in differences) / 3)
    assert found.mean == pytest.approx(0.05)
    assert found.ci95 == pytest.approx(1.96 * deviation / 2)
    assert (found.tasks, found.better, found.worse) == (4, 2, 1)
    assert not found.clear
    back = difference(other, one)
    assert (back.mean, back.better, back.worse) == (pytest.approx(-0.05), 1, 2)


def test_pairs_are_found_by_checksum_and_not_by_place(tmp_path):
    one = kept(tmp_path / "a.safetensors", [[0.1], [0.5], [0.9]], [10, 20, 30])
    other = kept(tmp_path / "b.safetensors", [[0.9], [0.4], [0.0], [0.3]], [30, 10, 50, 20])
    found = difference(one, other)
    assert found.tasks == 3
    assert found.mean == pytest.approx((0.3 + -0.2 + 0.0) / 3)


def test_pairing_cancels_what_makes_a_task_hard(tmp_path):
    """A constant gain on tasks of very different difficulty: no interval is left, unpaired it would be wide."""
    hard = torch.linspace(0.1, 0.8, 50).tolist()
    one = kept(tmp_path / "a.safetensors", [[score] for score in hard], list(range(50)))
    other = kept(tmp_path / "b.safetensors", [[score + 0.01] for score in hard], list(range(50)))
    found = difference(one, other)
    assert found.mean == pytest.approx(0.01)
    assert found.ci95 < 1e-8 < one.by_step()[0].ci95
    assert found.clear


def test_difference_after_a_given_step(tmp_path):
    one = kept(tmp_path / "a.safetensors", [[0.1, 0.5], [0.1, 0.7]], [1, 2])
    other = kept(tmp_path / "b.safetensors", [[0.3, 0.5], [0.3, 0.7]], [1, 2])
    assert difference(one, other, step=0).mean == pytest.approx(0.2)
    assert difference(one, other).mean == 0


def test_better_is_less_of_an_error(tmp_path):
    one = kept(tmp_path / "a.safetensors", [[1.0], [2.0]], [1, 2], metric=MSE)
    other = kept(tmp_path / "b.safetensors", [[0.5], [1.5]], [1, 2], metric=MSE)
    found = difference(one, other)
    assert (found.mean, found.better, found.worse) == (-0.5, 2, 0)


def test_runs_on_other_tasks_are_not_compared(tmp_path):
    one = kept(tmp_path / "a.safetensors", [[1.0]], [1], shots=1)
    other = kept(tmp_path / "b.safetensors", [[1.0]], [2], shots=5)
    with pytest.raises(
        ResultsError, match=r"no task in common \(shots 1 and 5\); evaluate both under one protocol"
    ):
        difference(one, other)


def test_scores_of_different_kinds_are_not_compared(tmp_path):
    one = kept(tmp_path / "a.safetensors", [[1.0]], [1])
    other = kept(tmp_path / "b.safetensors", [[1.0]], [1], metric=MSE)
    with pytest.raises(ResultsError, match=r"holds accuracy and .* mse"):
        difference(one, other)


@pytest.mark.parametrize("cut", [0, 5, 200])
def test_damaged_results_are_refused_by_name(tmp_path, cut):
    path = tmp_path / "a.safetensors"
    kept(path, [[0.5]] * 30, list(range(30)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ResultsError, match=r"a\.safetensors is damaged and cannot be read"):
        load(path)


def test_missing_and_foreign_files_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ResultsError, match=r"none\.safetensors does not exist"):
        load(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ResultsError, match=r"foreign\.safetensors holds no per-task results of Neo"):
        load(tmp_path / "foreign.safetensors")


def test_evaluation_without_a_record_cannot_be_kept(tmp_path):
    bare = Evaluation(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"has no record; evaluate\(\.\.\., record=True\)"):
        write(tmp_path / "a.safetensors", bare, ACCURACY, {})
