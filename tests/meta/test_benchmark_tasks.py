"""Each benchmark from its configuration to a meta-gradient, on a small archive of a published layout."""

from __future__ import annotations

import pytest
import torch

import meta
from meta.cli.configs import composed
from meta.experiment import Experiment
from tasks.images import published_split
from tests.tasks.images.test_benchmarks import LAYOUTS

LAYOUT = {
    "mini_imagenet": "mini: learn2learn",
    "tiered_imagenet": "tiered: Ren",
    "cifar_fs": "CIFAR-FS: MetaOptNet",
    "fc100": "FC100: python",
    "cub": "CUB",
}


@pytest.mark.parametrize("name", LAYOUT)
def test_benchmark_runs_from_its_configuration(name, tmp_path):
    benchmark, write, _ = LAYOUTS[LAYOUT[name]]
    write(tmp_path, published_split(name))
    overrides = [
        f"task={name}", f"data_dir={tmp_path}", "task.dataset.size=16", "task.queries=1", "task.crop=2",
        "task.flip=true", "task.colour=0.4", "model=conv4_maxpool", "model.hidden=4", "device=cpu",
    ]  # fmt: skip
    experiment = Experiment(composed("train", overrides))
    assert isinstance(experiment.dataset, benchmark)
    params = experiment.learner.init(seed=0)
    assert params["conv0.weight"].shape == (4, 3, 3, 3)
    found = meta.meta_gradient(experiment.learner, params, experiment.sampler("train").sample(0, 1))
    assert all(bool(torch.isfinite(gradient.data).all()) for gradient in found.gradient.values())
    val, test = (experiment.sampler(part) for part in ("val", "test"))
    assert not val.augmentation
    assert not {*val.dataset.parts["val"].tolist()} & {*test.dataset.parts["test"].tolist()}
    assert experiment.protocol()["dataset"] == name
