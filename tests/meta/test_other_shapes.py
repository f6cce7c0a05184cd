"""Tasks that are no images in classes train, resume bit for bit, are evaluated and drawn, from their configurations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import meta
from meta.cli.configs import composed
from meta.evaluate_run import evaluate_run
from meta.experiment import Experiment
from meta.interruption import Stopped
from meta.plots import canvas
from meta.replay import replay_run
from meta.resume import resumed_config
from meta.run import Run
from tasks import UnbalancedSampler
from tests.meta.test_beyond_few_shot import SHORT
from tests.meta.test_run import assert_same_run
from tests.tasks import test_table as tables
from tests.tasks import test_tokens as texts
from tests.tasks.images import made as image_files
from tests.tasks.images import test_multi_label as multi_label_images
from tests.tasks.images import test_segmentation as pixels


def table(place: Path) -> list[str]:
    tables.written(place / "t.csv", tables.rows())
    return [f"data_dir={place / 't.csv'}", "task.dataset.group=who", "task.dataset.outputs=[y,z]", "task.shots=3",
            "task.queries=4", "task.layers=[data.inputs,4,data.outputs]"]  # fmt: skip


def multi_label(place: Path) -> list[str]:
    return [f"data_dir={multi_label_images.as_arrays(place)}", f"task.dataset.split={multi_label_images.split(place)}",
            "task.dataset.size=8", "task.ways=3", "task.queries=2", "model.hidden=4"]  # fmt: skip


def segmentation(place: Path) -> list[str]:
    return [f"data_dir={pixels.as_folder(place / 'data')}", "task.dataset.size=8", "task.shots=2", "task.queries=2",
            "task.dataset.fractions=[0.4,0.3,0.3]", "model.hidden=4", "task.crop=2", "task.flip=true"]  # fmt: skip


def tokens(place: Path) -> list[str]:
    return [f"data_dir={texts.as_table(place)}", "task.ways=2", "task.shots=1", "task.queries=2", "model.size=8",
            "task.dataset.fractions=[0.4,0.3,0.3]", "model.blocks=1"]  # fmt: skip


MADE = {"table": table, "multi_label": multi_label, "segmentation": segmentation, "tokens": tokens}


@pytest.mark.parametrize("task", MADE)
def test_task_has_a_meta_gradient_and_a_score_from_its_configuration(task, tmp_path):
    experiment = Experiment(composed("train", [f"task={task}", "device=cpu", *MADE[task](tmp_path)]))
    params = experiment.learner.init(seed=0)
    tasks = experiment.sampler("train").sample(0, 2)
    found = meta.meta_gradient(experiment.learner, params, tasks)
    assert all(bool(one.data.isfinite().all()) for one in found.gradient.values())
    assert any(float(one.data.abs().max()) > 0 for one in found.gradient.values())
    assert math.isfinite(experiment.evaluate(experiment.start(), experiment.sampler("test"), 2).mean)


@pytest.mark.slow
@pytest.mark.parametrize("task", MADE)
def test_task_trains_and_resumes_bit_for_bit(task, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "FORMATS", {"png": canvas.FORMATS["png"]})
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config = composed("train", [*SHORT, "trainer.meta_batch=2", f"task={task}", *MADE[task](tmp_path)])
    result = Run(config, whole).train()
    torch.manual_seed(5)
    with pytest.raises(Stopped):
        Run(config, halves, validated=lambda step, score: "half is enough for now").train()
    Run(resumed_config(halves, {}), halves, resume=True).train()
    assert_same_run(whole, halves)
    score = f"test/{result['metric']}"
    assert json.loads((halves / "result.json").read_text())[score] == result[score]
    assert evaluate_run(whole, tasks=2, name="again")[score] == result[score]
    assert (whole / "plots" / "tasks.png").is_file()
    replay_run(whole, iteration=1, slot=1)
    assert (whole / "plots" / "replay.png").is_file()


def test_model_is_fitted_to_the_columns(tmp_path):
    experiment = Experiment(composed("train", ["task=table", *table(tmp_path)]))
    params = experiment.learner.init(seed=0)
    assert (params["linear0.weight"].shape, params["linear1.weight"].shape) == ((4, 2), (2, 4))
    task = experiment.sampler("train").sample(0, 1)
    assert set(meta.meta_gradient(experiment.learner, params, task).gradient) == set(params)


def test_unbalanced_queries_come_from_the_configuration(tmp_path):
    folder = image_files.as_folder(tmp_path / "data", image_files.images())
    settings = [
        f"data_dir={folder}",
        "task.dataset.size=8",
        "task.dataset.fractions=[0.4,0.3,0.3]",
        "task.ways=2",
    ]
    for balance in (["task.dirichlet=2"], ["task.test_dirichlet=2"]):
        experiment = Experiment(composed("train", ["task=images", *settings, "task.queries=2", *balance]))
        unbalanced = [isinstance(experiment.sampler(part), UnbalancedSampler) for part in ("train", "test")]
        assert unbalanced == [balance[0].startswith("task.dirichlet"), True]
        found = meta.meta_gradient(
            experiment.learner, experiment.learner.init(0), experiment.sampler("test").sample(0, 2)
        )
        assert all(bool(one.data.isfinite().all()) for one in found.gradient.values())


def test_size_that_the_data_do_not_have_is_refused():
    config = composed("train", ["task=sinusoid", "+task.layers=[data.inputs,4,1]"])
    with pytest.raises(
        ValueError, match=r"model\._args_\[0\]=data\.inputs: the data of sinusoid say nothing of inputs"
    ):
        _ = Experiment(config).learner
