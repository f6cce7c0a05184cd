"""What is read from a sweep's folder, whatever state its arms are in."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import stdev

import pytest

from meta import anytime
from meta.problems import MSE
from meta.report import ReportError, read, seeds
from tests.meta.report.folders import write_run, write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return read(write_sweep(tmp_path_factory.mktemp("sweep")))


def test_every_arm_is_there_with_its_status_and_reason(sweep):
    assert [arm.name for arm in sweep.arms] == [str(number) for number in range(8)]
    assert [arm.status for arm in sweep.arms] == ["finished"] * 6 + ["failed", "unfinished"]
    assert sweep.arms[6].reason == "step 11: it broke <b>& burnt</b>"
    assert sweep.arms[7].reason == "no result yet (last logged step: 30); it is running, or was stopped"


def test_settings_that_differ_and_that_do_not(sweep):
    assert sweep.differing == ["algorithm.inner_lr", "seed"]
    assert sweep.common == {"task.ways": 5}
    assert sweep.arms[2].settings["algorithm.inner_lr"] == 0.4


def test_reference_is_the_best_by_validation_and_never_by_test(tmp_path):
    write_run(tmp_path / "0", val=0.8, test=0.5)
    write_run(tmp_path / "1", val=0.7, test=0.9)
    write_run(tmp_path / "2", val=0.9, test=None)
    sweep = read(tmp_path)
    assert sweep.reference().name == "0"
    assert sweep.reference("1").name == "1"
    assert [arm.name for arm in sweep.ranked()] == ["0", "1", "2"]
    with pytest.raises(ReportError, match=r"baseline 2 is no finished arm of .*; expected one of 0, 1"):
        sweep.reference("2")


def test_less_of_an_error_ranks_first(tmp_path):
    for name, score in (("0", 2.0), ("1", 0.5), ("2", 1.0)):
        write_run(tmp_path / name, val=score, test=score, metric=MSE)
    sweep = read(tmp_path)
    assert sweep.metric is MSE
    assert [arm.name for arm in sweep.ranked()] == ["1", "2", "0"]


def test_arms_are_in_the_order_of_their_numbers_and_may_lie_deeper(tmp_path):
    for name in ("10", "9", "lr=0.1/seed=2", "lr=0.1/seed=10"):
        write_run(tmp_path / name)
    assert [arm.name for arm in read(tmp_path).arms] == ["9", "10", "lr=0.1/seed=2", "lr=0.1/seed=10"]


def test_single_run_is_a_sweep_of_one(tmp_path):
    sweep = read(write_run(tmp_path / "run"))
    assert (sweep.single, [arm.name for arm in sweep.arms]) == (True, ["run"])


def test_folder_without_runs_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere is no folder; name the folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"holds no runs: neither it nor a folder in it has \.hydra/"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "result.json", "test.safetensors", ".hydra/config.yaml", "failure.json"]
)
def test_damaged_file_of_an_arm_is_survived(tmp_path, name):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1")
    (tmp_path / "1" / name).write_bytes(b'{"\x00cut [')
    whole, damaged = read(tmp_path).arms
    assert whole.status == "finished"
    assert damaged.name == "1"


def test_setting_tried_with_seeds_gets_their_mean_and_a_t_interval(sweep):
    settings = seeds.settings(sweep)
    assert [one.values["algorithm.inner_lr"] for one in settings] == [0.4, 1.0, 0.1]
    best, second, last = settings
    assert (best.mean, len(best.arms), best.test) == (None, 2, pytest.approx(0.70))
    assert second.spread == (pytest.approx(0.65), pytest.approx(0.70))
    differences = [0.59 - 0.71, 0.61 - 0.69]
    assert last.mean == pytest.approx(sum(differences) / 2)
    assert last.ci95 == pytest.approx(12.706 * stdev(differences) / math.sqrt(2))
    assert last.anytime95 == math.inf  # of two seeds


def test_interval_at_any_look_is_of_all_comparisons_at_once(tmp_path):
    scores = {
        0.1: (0.5, 0.52, 0.47, 0.51, 0.5),
        0.4: (0.7, 0.73, 0.71, 0.74, 0.7),
        1.0: (0.6, 0.58, 0.61, 0.6, 0.62),
    }
    for rate, tests in scores.items():
        for seed, test in enumerate(tests):
            write_run(
                tmp_path / f"{rate}-{seed}",
                algorithm__inner_lr=rate,
                seed=seed,
                test=test,
                val=test - 0.01 * seed,
            )
    _, *others = seeds.settings(read(tmp_path))
    for one in others:
        differences = [
            a - b for a, b in zip(scores[one.values["algorithm.inner_lr"]], scores[0.4], strict=True)
        ]
        assert one.anytime95 == pytest.approx(anytime.half_width(differences, level=0.975))


def test_no_table_over_seeds_where_each_setting_has_one(tmp_path):
    for number, rate in enumerate((0.1, 0.4)):
        write_run(tmp_path / str(number), algorithm__inner_lr=rate)
    assert seeds.settings(read(tmp_path)) == []


def test_t_quantiles_fall_towards_the_normal_s():
    assert all(one > other > 1.96 for one, other in pairwise(seeds.T975))
