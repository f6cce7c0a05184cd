"""ProtoNet against an implementation in torch that shares none of its code."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta import ProtoNet, Step
from meta.run import Run
from tasks import Batch, Glyphs, Task

INPUTS, FEATURES = 5, 4
LABELS = [2, 0, 1, 0, 2, 2]  # in no order, of unequal numbers


def task(ways: int = 3, labels: list[int] = LABELS, seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)

    def examples(y: list[int]) -> Batch:
        return Batch(torch.randn(len(y), INPUTS, generator=generator, dtype=torch.float64), torch.tensor(y))

    return Task(examples(labels), examples([k % ways for k in range(7)]))


def as_meta_batch(*tasks: Task) -> Task:
    def stacked(part: str) -> Batch:
        sets = [getattr(one, part) for one in tasks]
        return Batch(torch.stack([one.x for one in sets]), torch.stack([one.y for one in sets]))

    return Task(stacked("support"), stacked("query"))


def in_torch(weights: dict, task: Task, distance: str, scale: torch.Tensor) -> torch.Tensor:
    """Logits of the queries, class by class and query by query."""

    def features(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(x @ weights["linear0.weight"].T + weights["linear0.bias"])
        return hidden @ weights["linear1.weight"].T + weights["linear1.bias"]

    support, queries = features(task.support.x), features(task.query.x)
    rows = []
    for query in queries:
        row = []
        for k in sorted(set(task.support.y.tolist())):
            centre = torch.stack(
                [one for one, label in zip(support, task.support.y.tolist(), strict=True) if label == k]
            ).sum(0) / task.support.y.tolist().count(k)
            if distance == "euclidean":
                row.append(-scale * sum((a - b) ** 2 for a, b in zip(query, centre, strict=True)))
            else:
                row.append(scale * (query @ centre) / (query.norm() * centre.norm()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_meta_gradient_and_logits_are_those_of_torch(distance, learned):
    model = neo.nn.MLP(INPUTS, 6, FEATURES)
    params = model.init(seed=1, dtype=torch.float64)
    learner = ProtoNet(model, distance=distance, scale=1.7, learned_scale=learned)
    scale = torch.tensor(1.7, dtype=torch.float64)
    ours = {"params": params, "scale": neo.LiteTensor(scale)} if learned else params
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params.items()}
    scale = scale.clone().requires_grad_()

    tasks = [task(seed=1), task(seed=2)]
    losses, scores = [], []
    for one in tasks:
        logits = in_torch(weights, one, distance, scale)
        predicted = learner.adapt(ours, one.support, Step())(one.query.x)
        torch.testing.assert_close(predicted.data, logits.detach(), rtol=1e-12, atol=1e-12)
        losses.append(torch.nn.functional.cross_entropy(logits, one.query.y))
        scores.append((logits.argmax(1) == one.query.y).float().mean())
    torch.stack(losses).mean().backward()

    found = meta.meta_gradient(learner, ours, as_meta_batch(*tasks))
    torch.testing.assert_close(found.loss, torch.stack(losses).detach())
    torch.testing.assert_close(found.score, torch.stack(scores))
    of_model = found.gradient["params"] if learned else found.gradient
    for name, weight in weights.items():
        torch.testing.assert_close(of_model[name].data, weight.grad, rtol=1e-11, atol=1e-13)
    if learned:
        torch.testing.assert_close(found.gradient["scale"].data, scale.grad, rtol=1e-11, atol=1e-13)
        assert found.metrics["scale"].tolist() == [1.7, 1.7]
    else:
        assert not found.metrics


def test_order_of_the_support_set_does_not_matter():
    model = neo.nn.MLP(INPUTS, FEATURES)
    params, one = model.init(seed=1, dtype=torch.float64), task()
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    learner = ProtoNet(model)
    logits = [
        learner.adapt(params, support, Step())(one.query.x).data
        for support in (one.support, Batch(one.support.x[order], one.support.y[order]))
    ]
    torch.testing.assert_close(*logits, rtol=1e-13, atol=1e-13)


def test_meta_parameters_are_the_models_and_a_scale_where_it_is_learned():
    model = neo.nn.Conv4(ways=None, hidden=4, pool="max", head="flatten")
    params = ProtoNet(model).init(seed=3)
    assert params.keys() == model.init(seed=3).keys()
    assert not any(name.startswith("head") for name in params)
    learned = ProtoNet(model, distance="cosine", learned_scale=True).init(seed=3)
    assert learned.keys() == {"params", "scale"}
    assert float(learned["scale"]) == 10.0
    assert float(ProtoNet(model, learned_scale=True).init(seed=3)["scale"]) == 1.0


@pytest.mark.parametrize(
    ("pool", "head", "size", "features"),
    [("max", "flatten", 28, 64), ("max", "flatten", 84, 1600), ("stride", "mean", 28, 64)],
)
@pytest.mark.parametrize("fused", [True, False])
def test_conv4_without_a_head_gives_features(pool, head, size, features, fused):
    settings = {"pool": pool, "head": head, "size": size, "fused": fused}
    model, headed = neo.nn.Conv4(None, **settings), neo.nn.Conv4(features, **settings)
    x = torch.rand(2, 1, size, size)
    params = headed.init(seed=0)
    # A head that passes everything on says what is in front of it.
    params |= {"head.weight": neo.eye(features), "head.bias": neo.zeros(features)}
    out = model({name: leaf for name, leaf in params.items() if not name.startswith("head")}, x)
    assert out.shape == (2, features)
    torch.testing.assert_close(out.data, headed(params, x).data)


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (torch.tensor([0, 0, 3, 3, 1, 1]), r"class 2 has no support example.*labels must be 0 to 3"),
        (torch.tensor([0, 1, 2, -1, 0, 1]), r"class numbers of 0 or more, got -1"),
        (torch.zeros(6, 1), r"must be class numbers.*\(6, 1\) torch.float32"),
    ],
)
def test_support_labels_that_are_no_classes_are_refused(y, sentence):
    model = neo.nn.MLP(INPUTS, FEATURES)
    support = Batch(torch.randn(6, INPUTS), y)
    with pytest.raises(ValueError, match=f"ProtoNet: .*{sentence}"):
        ProtoNet(model).adapt(model.init(seed=0), support, Step())


def test_settings_that_mean_nothing_are_refused():
    model = neo.nn.MLP(INPUTS, FEATURES)
    with pytest.raises(ValueError, match="distance must be one of euclidean, cosine; got 'manhattan'"):
        ProtoNet(model, distance="manhattan")
    with pytest.raises(ValueError, match="scale must be a finite number, got inf"):
        ProtoNet(model, scale=float("inf"))
    with pytest.raises(ValueError, match="takes no inner steps; got inner_steps=2"):
        ProtoNet(model).adapt(model.init(seed=0), task().support, Step(inner_steps=2))
    with pytest.raises(ValueError, match="leave out batched=true"):
        meta.meta_gradient(
            ProtoNet(model),
            model.init(seed=0, dtype=torch.float64),
            as_meta_batch(task()),
            workers=meta.Batched(),
        )


def test_trains_with_more_ways_than_it_is_tested_with(tmp_path):
    """From its configuration alone: the model that it picks, no inner steps, other tasks in testing, pictures."""
    settings = [
        "algorithm=protonet",
        "task.ways=7",
        "task.test_ways=3",
        "task.queries=4",
        "task.test_shots=2",
        "model.hidden=8",
        "trainer.iterations=2",
        "trainer.meta_batch=2",
        "trainer.val_tasks=3",
        "evaluation.tasks=5",
        "device=cpu",
    ]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", settings)
    assert config.model.ways is None
    assert config.evaluation.inner_steps is None
    result = Run(config, tmp_path).train()
    protocol = result["protocol"]
    assert (protocol["ways"], protocol["test_ways"], protocol["test_inner_steps"]) == (7, 3, None)
    assert (protocol["shots"], protocol["test_shots"]) == (1, 2)
    assert "test_queries" not in protocol
    assert result["test/chance"] == pytest.approx(1 / 3)
    assert (tmp_path / "plots" / "tasks.png").is_file()
    trained = meta.load(tmp_path, which="last")
    one = Glyphs().sampler("test", ways=6, shots=1, queries=2, seed=0).sample(0, 1)[0]
    assert trained.adapt(one.support)(one.query.x).shape == (12, 6)
