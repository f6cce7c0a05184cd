"""What pictures are headed by: the algorithm as its paper writes it, the model, the data."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module

from meta.algorithms import MAML
from meta.experiment import Experiment
from meta.learner import MetaLearner
from meta.problems import Regression
from meta.titles import run_title
from neo import nn


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ([], "MAML (Conv4) on glyphs, 5-way 1-shot"),
        (["algorithm=fomaml", "task.test_ways=3"], "FOMAML (Conv4) on glyphs, 3-way 1-shot"),
        (["algorithm=imaml"], "iMAML (Conv4) on glyphs, 5-way 1-shot"),
        (["algorithm=maml_plus_plus"], "MAML++ (Conv4) on glyphs, 5-way 1-shot"),
        (["algorithm=meta_sgd"], "Meta-SGD (Conv4) on glyphs, 5-way 1-shot"),
        (
            ["algorithm=anil", "algorithm.first_order=true"],
            "first-order ANIL (Conv4) on glyphs, 5-way 1-shot",
        ),
        (["algorithm=es_maml", "task=sinusoid"], "ES-MAML (MLP) on sinusoid, 10-shot"),
        (["algorithm=protonet"], "ProtoNet (Conv4) on glyphs, 5-way 1-shot"),
        (["model=torch", "model.module=torch.nn.Flatten"], "MAML (Flatten) on glyphs, 5-way 1-shot"),
    ],
)
def test_title_names_algorithm_model_and_tasks(overrides, title):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(
            "train",
            ["task.dataset.alphabets=4", *overrides] if "task=sinusoid" not in overrides else overrides,
        )
    experiment = Experiment(config)
    assert experiment.title(experiment.sampler("test")) == title


def test_algorithm_of_a_user_s_own_has_its_own_name():
    class Mine(MAML):
        pass

    class Modelless(MetaLearner):
        def adapt(self, params, support, step):
            raise NotImplementedError

        def task_gradient(self, params, task, step):
            raise NotImplementedError

    model = {"_target_": "neo.nn.MLP"}
    mine = Mine(nn.MLP(1, 4, 1), problem=Regression())
    assert run_title(mine, model, "lines", "5-shot") == "Mine (MLP) on lines, 5-shot"
    for node in (model, None):
        assert run_title(Modelless(), node, "lines", "5-shot") == "Modelless on lines, 5-shot"
