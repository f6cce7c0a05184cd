"""CAVIA against networks in torch that have a context where the paper's code has one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module

import neo
from meta import CAVIA, MAML, Classification, Regression, Step, meta_gradient
from meta.experiment import build
from tasks import Batch, Task

ALPHA, STEPS, CONTEXT = 0.7, 2, 5
Weights = dict[str, torch.Tensor]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sinusoids() -> Task:
    return Task(
        Batch(draw(2, 6, 1), draw(2, 6, 1, seed=1)), Batch(draw(2, 4, 1, seed=2), draw(2, 4, 1, seed=3))
    )


def images() -> Task:
    labels = torch.arange(3).expand(2, 3).contiguous()
    return Task(Batch(draw(2, 3, 1, 16, 16), labels), Batch(draw(2, 3, 1, 16, 16, seed=1), labels))


def concatenated(w: Weights, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The first layer sees (x, φ)."""
    weight = torch.cat([w["linear0.weight"], w["film.linear0.shift"]], 1)
    hidden = torch.relu(F.linear(torch.cat([x, context.expand(len(x), -1)], 1), weight, w["linear0.bias"]))
    return F.linear(hidden, w["linear1.weight"], w["linear1.bias"])


def modulated(w: Weights, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The third block's batch norm is followed by FiLM, then by ReLU and pooling."""
    for i in range(4):
        x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], padding=1)
        x = F.batch_norm(x, None, None, w[f"norm{i}.weight"], w[f"norm{i}.bias"], training=True)
        if i == 2:
            gamma, beta = 1 + w["film.norm2.scale"] @ context, w["film.norm2.shift"] @ context
            x = gamma[:, None, None] * x + beta[:, None, None]
        x = F.max_pool2d(torch.relu(x), 2)
    return F.linear(x.flatten(1), w["head.weight"], w["head.bias"])


def in_torch(predict, loss, params, tasks, first_order):
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params.items() if name != "context"}
    total = torch.zeros((), dtype=torch.float64)
    for task in tasks:
        context = torch.zeros(CONTEXT, dtype=torch.float64, requires_grad=True)
        for _ in range(STEPS):
            of_support = loss(predict(weights, context, task.support.x), task.support.y)
            (gradient,) = torch.autograd.grad(of_support, context, create_graph=not first_order)
            context = context - ALPHA * gradient
            if first_order:
                context = context.detach().requires_grad_()
        total = total + loss(predict(weights, context, task.query.x), task.query.y) / 2
    total.backward()
    return total.detach(), {name: weight.grad for name, weight in weights.items()}


CASES = {
    "concatenated to an input": (neo.nn.MLP(1, 8, 1), Regression, sinusoids, concatenated, F.mse_loss),
    "modulating feature maps": (
        neo.nn.Conv4(ways=3, hidden=4, size=16, pool="max", head="flatten"),
        Classification,
        images,
        modulated,
        F.cross_entropy,
    ),
}


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("case", CASES)
def test_meta_gradient_is_that_of_torch(case, first_order):
    model, problem, tasks, predict, loss = CASES[case]
    learner = CAVIA(
        model,
        context=CONTEXT,
        inner_lr=ALPHA,
        inner_steps=STEPS,
        problem=problem(),
        first_order=first_order,
    )
    params = {name: neo.LiteTensor(leaf.data.double()) for name, leaf in learner.init(seed=3).items()}
    expected_loss, expected = in_torch(predict, loss, params, tasks(), first_order)
    found = meta_gradient(learner, params, tasks())
    torch.testing.assert_close(found.loss.mean(), expected_loss, rtol=1e-10, atol=0)
    assert {*expected} == {*params} - {"context"}
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found.gradient[name].data, gradient, rtol=0, atol=1e-10 * scale)
    assert not found.gradient["context"].data.any()


def test_context_starts_at_zero_in_every_task_whatever_it_holds():
    learner = CAVIA(neo.nn.MLP(1, 8, 1), context=3, problem=Regression())
    params, support = learner.init(seed=0), sinusoids()[0].support
    support = Batch(support.x.float(), support.y.float())
    adapted = [
        learner.adapt(given, support, Step()).params
        for given in (params, {**params, "context": neo.LiteTensor([5.0, -1.0, 2.0])})
    ]
    assert torch.equal(adapted[0]["context"].data, adapted[1]["context"].data)
    assert adapted[0]["context"].data.any()
    assert all(torch.equal(adapted[0][name].data, params[name].data) for name in params if name != "context")


def test_model_is_what_it_was_before_it_adapts():
    model = neo.nn.Conv4(ways=3, hidden=4, size=16)
    learner = CAVIA(model, context=3, at=["norm*", "conv0", "head"])
    params, x = learner.init(seed=0), torch.rand(2, 1, 16, 16)
    assert torch.equal(
        learner.adapt(params, images()[0].support, Step(inner_steps=0))(x).data, model(params, x).data
    )
    assert {"film.conv0.scale", "film.norm3.scale", "film.norm3.shift", "film.head.shift"} <= params.keys()
    assert "film.head.scale" not in params


def test_any_module_can_be_conditioned():
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )
    model, _ = neo.nn.from_torch(module)
    learner = CAVIA(model, context=2, at="1")
    params = learner.init(seed=0)
    task = Task(Batch(torch.rand(3, 16), torch.arange(3)), Batch(torch.rand(3, 16), torch.arange(3)))
    found = learner.task_gradient(params, task, Step(training=True))
    assert params["film.1.shift"].shape == (6, 2)
    assert float(found.gradient["film.1.shift"].data.abs().max()) > 0


def test_parameters_of_the_models_own_can_be_the_context():
    """Without a context of CAVIA's, what `adapt` matches is reset; with parameters at zero anyway it is ANIL."""
    model, task = neo.nn.MLP(1, 8, 1), sinusoids()
    params = {name: neo.LiteTensor(leaf.data.double()) for name, leaf in model.init(seed=3).items()}
    options = {"adapt": "linear1.bias", "problem": Regression(), "inner_steps": 2, "inner_lr": 0.1}
    found = meta_gradient(CAVIA(model, context=None, **options), params, task)
    maml = meta_gradient(MAML(model, **options), params, task)
    for name in params:
        same = torch.equal(found.gradient[name].data, maml.gradient[name].data)
        assert same != (name == "linear1.bias"), name


def test_settings_are_the_papers():
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", ["algorithm=cavia"])
    learner = build(config.algorithm, model=neo.nn.Conv4(ways=5))
    assert (learner.model.size, learner.inner.steps, config.algorithm.inner_lr) == (100, 2, 1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"context": 0}, "CAVIA: context must be an integer of 1 or more, got 0"),
        ({"context": None, "at": "norm2"}, "at='norm2' is where a context acts, and context is None"),
        ({"at": "nrom2"}, r"in algorithm.at, 'nrom2' matches no parameter \(nearest: norm2"),
        ({"at": "layout"}, "in algorithm.at, 'layout' matches no parameter"),
        ({"adapt": "contex"}, r"in algorithm.adapt, 'contex' matches no parameter \(nearest: context"),
    ],
)
def test_what_means_nothing_is_refused(options, sentence):
    def adapted():
        learner = CAVIA(neo.nn.Conv4(ways=3, hidden=4, size=16), **options)
        return learner.adapt(learner.init(seed=0), images()[0].support, Step())

    with pytest.raises(ValueError, match=sentence):
        adapted()


def test_model_without_a_known_layer_asks_for_one():
    model, _ = neo.nn.from_torch(torch.nn.Sequential(torch.nn.Linear(1, 1)))
    with pytest.raises(ValueError, match=r"no layer norm2 or linear0 .* name one with algorithm.at: 0\."):
        CAVIA(model).init(seed=0)


def test_name_of_the_contexts_own_is_refused():
    class Own(neo.nn.MLP):
        def draw(self, generator):
            return {**super().draw(generator), "context": torch.zeros(2)}

    with pytest.raises(ValueError, match="parameter 'context' has a name of the context's own"):
        CAVIA(Own(1, 4, 1)).init(seed=0)
