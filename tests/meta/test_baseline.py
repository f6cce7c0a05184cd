"""Baseline, Baseline++ and nearest centroids against an implementation in torch, by torch's own optimiser."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta import Baseline, ProtoNet, Step
from meta.experiment import Experiment
from tasks import Glyphs, Task
from tests.meta.test_protonet import FEATURES, INPUTS, as_meta_batch, task

MODEL = neo.nn.MLP(INPUTS, 6, FEATURES)
CLASSES, SCALE, STEPS = 9, 3.0, 7
FITTING = {"lr": 0.3, "momentum": 0.9, "dampening": 0.8, "weight_decay": 0.05}


def learner(classifier: str, **options: object) -> Baseline:
    fitting = neo.optim.momentum(**FITTING)
    settings = {"inner_optimizer": fitting, "inner_steps": STEPS, "scale": SCALE, **options}
    return Baseline(MODEL, training_classes=CLASSES, features=FEATURES, classifier=classifier, **settings)


def double(learner: meta.MetaLearner) -> dict:
    return neo.pytree.tree_map(lambda leaf: neo.LiteTensor(leaf.data.double()), learner.init(seed=1))


def features(weights: dict, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(x @ weights["linear0.weight"].T + weights["linear0.bias"])
    return hidden @ weights["linear1.weight"].T + weights["linear1.bias"]


def logits(head: dict, z: torch.Tensor) -> torch.Tensor:
    """Class by class."""
    if "bias" in head:
        return z @ head["weight"].T + head["bias"]
    return SCALE * torch.stack(
        [torch.nn.functional.cosine_similarity(z, row[None]) for row in head["weight"]], 1
    )


def with_classes(one: Task, classes: list[int]) -> Task:
    return dataclasses.replace(one, classes=torch.tensor(classes))


@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_gradient_is_torchs_of_all_images_over_all_training_classes(classifier):
    ours = learner(classifier)
    params, members = double(ours), [[7, 0, 4], [4, 8, 1]]
    tasks = [with_classes(task(seed=seed), of) for seed, of in enumerate(members)]
    weights = neo.pytree.tree_map(lambda leaf: leaf.data.clone().requires_grad_(), params)
    losses, scores = [], []
    for one, of in zip(tasks, members, strict=True):
        x = torch.cat([one.support.x, one.query.x])
        y = torch.tensor([of[label] for label in [*one.support.y.tolist(), *one.query.y.tolist()]])
        found = logits(weights["classifier"], features(weights["params"], x))
        losses.append(torch.nn.functional.cross_entropy(found, y))
        scores.append((found.argmax(1) == y).double().mean())
    torch.stack(losses).mean().backward()
    stacked = dataclasses.replace(as_meta_batch(*tasks), classes=torch.tensor(members))
    for workers in (None, meta.Batched()):
        found = meta.meta_gradient(ours, params, stacked, workers=workers)
        torch.testing.assert_close(found.loss, torch.stack(losses).detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(found.score.double(), torch.stack(scores), rtol=1e-6, atol=0)
        for part in ("params", "classifier"):
            for name, weight in weights[part].items():
                gradient = found.gradient[part][name].data
                torch.testing.assert_close(gradient, weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", ["random", "centroids"])
@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_head_is_the_one_that_torchs_sgd_fits(classifier, start):
    ours, one, step = learner(classifier, start=start), task(), Step(seed=11)
    params = double(ours)
    weights = {name: leaf.data for name, leaf in params["params"].items()}
    begun = ours.adapt(params, one.support, step.replace(inner_steps=0)).params
    head = {name: leaf.data.clone().requires_grad_() for name, leaf in begun.items()}
    if start == "random":  # torch.nn.Linear's own bounds
        assert 0.5 / FEATURES**0.5 < float(begun["weight"].data.abs().max()) <= 1 / FEATURES**0.5
    support = features(weights, one.support.x)
    optimizer = torch.optim.SGD(list(head.values()), **FITTING)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(head, support), one.support.y).backward()
        optimizer.step()
    predictor = ours.adapt(params, one.support, step)
    for name, leaf in head.items():
        torch.testing.assert_close(predictor.params[name].data, leaf.detach(), rtol=1e-9, atol=1e-11)
    expected = logits(head, features(weights, one.query.x)).detach()
    torch.testing.assert_close(predictor(one.query.x).data, expected, rtol=1e-9, atol=1e-11)
    other = ours.adapt(params, one.support, Step(seed=12)).params["weight"].data
    assert torch.equal(other, predictor.params["weight"].data) == (start == "centroids")


@pytest.mark.parametrize(("classifier", "distance"), [("cosine", "cosine"), ("linear", "euclidean")])
def test_from_centroids_without_steps_it_is_the_nearest_class_mean(classifier, distance):
    ours, one = learner(classifier, start="centroids", inner_steps=0), task()
    params = double(ours)
    weights = {name: leaf.data for name, leaf in params["params"].items()}
    z, queries = features(weights, one.support.x), features(weights, one.query.x)
    means = torch.stack([z[one.support.y == k].mean(0) for k in range(3)])
    if distance == "euclidean":
        nearest = torch.cdist(queries, means).argmin(1)
    else:
        nearest = torch.nn.functional.cosine_similarity(queries[:, None], means[None], dim=2).argmax(1)
    found = ours.adapt(params, one.support, Step())(one.query.x).data
    assert torch.equal(found.argmax(1), nearest)
    theirs = ProtoNet(MODEL, distance=distance, scale=SCALE if distance == "cosine" else 1.0)
    expected = theirs.adapt(params["params"], one.support, Step())(one.query.x).data
    torch.testing.assert_close(found.log_softmax(1), expected.log_softmax(1), rtol=1e-10, atol=1e-10)


def test_a_run_gives_it_the_classes_that_its_training_tasks_are_drawn_from():
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", ["algorithm=baseline", "model.hidden=4", "task.dataset.alphabets=3"])
    experiment = Experiment(config)
    train = experiment.sampler("train")
    classifier = experiment.learner.init(seed=0)["classifier"]
    assert classifier["weight"].shape == (train.classes, 4)
    assert classifier["bias"].shape == (train.classes,)


def test_tasks_say_which_classes_their_labels_are():
    sampler = Glyphs(alphabets=3, characters=2).sampler("train", ways=3, shots=1, queries=2, seed=0)
    batch = sampler.sample(4, [1, 5])
    expected, images = sampler.draw(4, [1, 5])
    assert torch.equal(batch.classes, expected)
    one = batch[1].to("cpu")
    assert torch.equal(one.classes, expected[1])
    for label, number in enumerate(one.classes.tolist()):
        rows = number * 20 + images[1, label, 1:]
        pixels = sampler._images[sampler._rows[rows]].float() / 255
        assert torch.equal(one.query.x[one.query.y == label], pixels)


def test_what_it_cannot_do_is_refused_by_its_name():
    ours = learner("cosine")
    with pytest.raises(ValueError, match=r"Baseline: .*Task\.classes is None"):
        ours.task_gradient(double(ours), task(), Step())
    with pytest.raises(ValueError, match="Baseline: classifier must be one of cosine, linear; got 'dot'"):
        learner("dot")
    with pytest.raises(ValueError, match="Baseline: start must be one of random, centroids"):
        learner("linear", start="zero")
    with pytest.raises(ValueError, match="Baseline: training_classes must be an integer of 2 or more, got 1"):
        Baseline(MODEL, training_classes=1)
    narrow = Baseline(MODEL, training_classes=CLASSES, features=5)
    with pytest.raises(ValueError, match=r"gives 4 features .* set algorithm\.features=4"):
        narrow.adapt(double(narrow), task().support, Step())
    with pytest.raises(ValueError, match=r"classes must be \('ways',\)|classes must be \(2, 'ways'\)"):
        dataclasses.replace(as_meta_batch(task(), task()), classes=torch.tensor([1, 2, 3]))


def test_tasks_without_classes_are_refused_before_training():
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", ["algorithm=baseline_plus_plus", "task=sinusoid"])
    with pytest.raises(ValueError, match="tasks of sinusoid are not made of classes"):
        Experiment(config).learner  # noqa: B018 - builds it
