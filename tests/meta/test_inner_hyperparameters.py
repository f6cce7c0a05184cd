"""Inner optimisers whose numbers are meta-parameters, against torch's double backward; by configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta import MAML, Step, meta_gradient
from meta.experiment import Experiment
from neo import LiteTensor, pytree
from tests.meta.quadratic import BODY, Tasks
from tests.meta.test_maml import random_tasks

STEPS = 3
RATES = {"body.theta": [0.05, 0.02, 0.08], "head.theta": [0.01, 0.07, 0.03]}
MOMENTUM, DECAY = 0.6, 0.2


def learner(problem: Tasks, learned: Any = ("lr", "momentum", "weight_decay"), **options: Any) -> MAML:
    optimizer = neo.optim.sgd(0.05, momentum=MOMENTUM, weight_decay=DECAY)
    settings = {"inner_optimizer": optimizer, "inner_steps": STEPS, "problem": problem.problem, **options}
    return MAML(problem.model, inner_learned=learned, **settings)


def numbers(learned: dict[str, Any]) -> dict[str, Any]:
    """Rates that tell tensors and steps apart."""
    rates = {name: LiteTensor(torch.tensor(values, dtype=torch.float64)) for name, values in RATES.items()}
    return {**learned, "lr": rates}


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_meta_gradient_of_rates_momentum_and_weight_decay_is_that_of_torch(first_order):
    problem = Tasks()
    ours = learner(problem, first_order=first_order)
    params = {"params": problem.params(), "inner": numbers(ours.inner.initial(problem.params()))}
    leaves = pytree.tree_map(lambda leaf: leaf.data.clone().requires_grad_(), params)
    theta, inner = leaves["params"], leaves["inner"]
    total = torch.zeros((), dtype=torch.float64)
    for centre, target in problem.tasks():
        at = dict(theta)
        velocity = {name: torch.zeros_like(leaf) for name, leaf in at.items()}
        for step in range(STEPS):
            apart = torch.cat([at["body.theta"], at["head.theta"]]) - centre
            gradient = (
                problem.A @ apart
            )  # in closed form, so that nothing here differentiates but the last line
            if first_order:
                gradient = gradient.detach()
            parts = {"body.theta": gradient[:BODY], "head.theta": gradient[BODY:]}
            for name, part in parts.items():
                decayed = part + inner["weight_decay"] * at[name]
                velocity[name] = inner["momentum"] * velocity[name] + decayed
                at[name] = at[name] - inner["lr"][name][step] * velocity[name]
        apart = torch.cat([at["body.theta"], at["head.theta"]]) - target
        total = total + 0.5 * (apart**2).sum() / len(problem.tasks())
    total.backward()
    for workers in (None, meta.Batched()):
        found = meta_gradient(ours, params, problem.batch(), workers=workers)
        torch.testing.assert_close(found.loss.mean(), total.detach(), rtol=1e-11, atol=0)
        for one, leaf in zip(pytree.leaves(found.gradient), pytree.leaves(leaves), strict=True):
            torch.testing.assert_close(one.data, leaf.grad, rtol=1e-10, atol=1e-11)
            assert float(leaf.grad.abs().max()) > 1e-6


def test_numbers_begin_at_the_optimisers_own_and_so_at_maml():
    problem = Tasks()
    ours, plain = learner(problem), learner(problem, learned=())
    params = {"params": problem.params(), "inner": ours.inner.initial(problem.params())}
    assert params["inner"]["lr"]["head.theta"].tolist() == [0.05] * STEPS
    assert (float(params["inner"]["momentum"]), float(params["inner"]["weight_decay"])) == (MOMENTUM, DECAY)
    one, other = (
        meta_gradient(learner_, at, problem.batch()).gradient
        for learner_, at in ((plain, problem.params()), (ours, params))
    )
    for name, leaf in one.items():
        torch.testing.assert_close(other["params"][name].data, leaf.data, rtol=1e-12, atol=1e-13)
    again = ours.adapt(params, problem.batch()[0].support, Step(inner_steps=STEPS + 2))
    assert len(again.trajectory) == STEPS + 3


MODEL = neo.nn.Conv4(ways=3, hidden=4, size=16, blocks=2)
KINDS = {
    "ANIL": (meta.ANIL, {"head.weight", "head.bias"}),
    "BOIL": (meta.BOIL, None),
    "CAVIA": (meta.CAVIA, {"context"}),
    "MetaCurvature": (meta.MetaCurvature, None),
    "KFO": (meta.KFO, None),
    "TNet": (meta.TNet, None),
    "SharpMAML": (meta.SharpMAML, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_algorithm_made_of_maml_learns_a_rate_for_each_tensor_that_adapts(kind):
    make, adapting = KINDS[kind]
    options = {"context": 3, "at": "norm1"} if kind == "CAVIA" else {}
    ours = make(MODEL, inner_lr=0.3, inner_steps=2, inner_learned="lr", **options)
    plain = make(MODEL, inner_lr=0.3, inner_steps=2, **options)
    params, tasks = ours.init(seed=0), random_tasks(3, 2, torch.float32, size=16)
    if adapting is not None:
        assert {*params["inner"]["lr"]} == adapting
    found = meta_gradient(ours, params, tasks)
    expected = meta_gradient(plain, plain.init(seed=0), tasks)
    torch.testing.assert_close(found.loss, expected.loss)
    rates = pytree.leaves(found.gradient["inner"]["lr"])
    assert all(rate.shape == (2,) for rate in rates)
    assert (
        sum(float(rate.data.abs().max()) > 0 for rate in rates) >= len(rates) - 2
    )  # biases before a norm: none


def test_command_line_sets_the_inner_optimiser_and_what_it_learns():
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(
            "train",
            [
                "algorithm=anil",
                "algorithm.inner_lr=null",
                "algorithm.inner_optimizer={_target_: neo.optim.adam, lr: 0.01, weight_decay: 0.1}",
                "algorithm.inner_learned=[lr,weight_decay]",
                "algorithm.inner_steps=2",
                "model.hidden=4",
            ],
        )
    ours = Experiment(config).learner
    params: Any = ours.init(seed=0)
    assert params["inner"]["lr"]["head.bias"].tolist() == pytest.approx([0.01, 0.01])
    assert float(params["inner"]["weight_decay"]) == pytest.approx(0.1)


def test_what_would_learn_nothing_is_refused():
    problem = Tasks()
    with pytest.raises(
        ValueError, match=r"MAML: inner_learned=\['rate'\]: 'rate' is no number of .*lr, weight_decay"
    ):
        learner(problem, "rate")
    with pytest.raises(ValueError, match="are numbers of an optimiser of neo"):
        learner(problem, inner_optimizer=neo.optim.Optimizer(lambda p: None, lambda p, g, s: (p, s)))
    with pytest.raises(ValueError, match=r"meta_gradient='implicit' .* would stay as it is"):
        learner(problem, meta_gradient="implicit")
    with pytest.raises(ValueError, match="leave inner_learned out"):
        meta.MetaSGD(problem.model, inner_learned="lr")
    with pytest.raises(ValueError, match="leave inner_learned out"):
        meta.MAMLPlusPlus(problem.model, inner_learned="lr")
    loop = meta.InnerLoop("Mine", steps=2, learned="lr")
    with pytest.raises(ValueError, match=r"Mine: lr of its inner optimiser are learned, .* pass numbers="):
        loop.iterates(lambda params, support: params["x"].sum(), {"x": LiteTensor(torch.ones(2))}, None)
