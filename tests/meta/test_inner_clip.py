"""Clipped inner gradients, by the constructor and from the command line; learners that pickle and copy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta import Step
from meta.experiment import Experiment
from tests.meta.quadratic import Tasks

CLIP = 0.5


def torchs_meta_gradient(problem: Tasks, rate: float, steps: int, clip: float | None) -> torch.Tensor:
    """By torch's double backward through clip_grad_norm_'s formula, θ as one vector."""
    start = torch.cat([value.data for value in problem.params().values()])
    total = torch.zeros_like(start)
    for centre, target in zip(problem.centres, problem.targets, strict=True):
        theta = leaf = start.clone().requires_grad_()
        for _ in range(steps):
            loss = 0.5 * (theta - centre) @ problem.A @ (theta - centre)
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            if clip is not None:
                gradient = gradient * torch.clamp(clip / (gradient.norm() + 1e-6), max=1.0)
            theta = theta - rate * gradient
        (found,) = torch.autograd.grad(0.5 * ((theta - target) ** 2).sum(), leaf)
        total += found
    return total / len(problem.centres)


def flat(gradient: Any) -> torch.Tensor:
    return torch.cat([value.data for value in gradient.values()])


@pytest.mark.parametrize("clip", [None, CLIP, 1e6])
def test_meta_gradient_goes_through_clipped_inner_steps(clip: float | None) -> None:
    problem = Tasks()
    learner = meta.MAML(problem.model, inner_lr=0.07, inner_steps=3, problem=problem.problem, inner_clip=clip)
    got = flat(meta.meta_gradient(learner, problem.params(), problem.batch()).gradient)
    torch.testing.assert_close(got, torchs_meta_gradient(problem, 0.07, 3, clip), rtol=1e-10, atol=1e-10)
    if clip == CLIP:
        assert (got - torchs_meta_gradient(problem, 0.07, 3, None)).norm() > 1e-3 * got.norm()


LEARNERS: dict[str, Any] = {
    "MAML": lambda p, **options: meta.MAML(p.model, problem=p.problem, **options),
    "ANIL": lambda p, **options: meta.ANIL(p.model, problem=p.problem, **options),
    "MetaSGD": lambda p, **options: meta.MetaSGD(p.model, problem=p.problem, **options),
    "Reptile": lambda p, **options: meta.Reptile(p.model, problem=p.problem, **options),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_adapted_parameters_stay_within_the_clip(name: str) -> None:
    problem = Tasks()
    params: Any = problem.params()
    start = flat(params)
    if name == "MetaSGD":
        params = {"params": params, "rates": {key: value * 0 + 1.0 for key, value in params.items()}}
    support = next(iter(problem.batch())).support
    learner = LEARNERS[name](problem, inner_lr=1.0, inner_clip=CLIP)
    moved = flat(learner.adapt(params, support, Step(inner_steps=1)).params) - start
    assert float(moved.norm()) == pytest.approx(CLIP, rel=1e-5)
    free = LEARNERS[name](problem, inner_lr=1.0)
    assert float((flat(free.adapt(params, support, Step(inner_steps=1)).params) - start).norm()) > 2 * CLIP


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", LEARNERS)
def test_clip_out_of_range_is_refused(name: str, clip: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: inner_clip must be greater than 0"):
        LEARNERS[name](Tasks(), inner_clip=clip)


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "anil", "meta_sgd", "reptile"])
def test_clip_is_set_from_the_command_line(algorithm: str) -> None:
    def learner(*overrides: str) -> Any:
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("train", [f"algorithm={algorithm}", "model.hidden=4", *overrides])
        return Experiment(config).learner

    assert learner().inner.clip is None
    assert learner("algorithm.inner_clip=1.5").inner.clip == 1.5
    with pytest.raises(ValueError, match="inner_clip must be greater than 0"):
        learner("algorithm.inner_clip=0")


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_pickle_and_copy(name: str, how: str) -> None:
    problem = Tasks()
    learner = LEARNERS[name](problem, inner_lr=0.1, inner_clip=CLIP)
    again = pickle.loads(pickle.dumps(learner)) if how == "pickle" else copy.deepcopy(learner)
    params: Any = problem.params()
    if name == "MetaSGD":
        params = {"params": params, "rates": {key: value * 0 + 0.1 for key, value in params.items()}}
    support = next(iter(problem.batch())).support
    ends = [flat(one.adapt(params, support, Step(inner_steps=2)).params) for one in (again, learner)]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    "model",
    [
        neo.nn.MLP(1, 4, 1),
        neo.nn.Conv4(ways=5, hidden=4),
        neo.nn.TorchModel(torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))),
    ],
    ids=["mlp", "conv4", "torch"],
)
@pytest.mark.parametrize("optimizer", [None, "adam", "scheduled"])
def test_learners_pickle_with_their_models_and_optimizers(model: Any, optimizer: str | None) -> None:
    made = {
        None: None,
        "adam": neo.optim.adam(0.1),
        "scheduled": neo.optim.clipped(neo.optim.momentum(neo.optim.cosine(0.1, 5)), value=1.0),
    }[optimizer]
    learner = meta.MAML(model, inner_optimizer=made)
    for again in (pickle.loads(pickle.dumps(learner)), copy.deepcopy(learner)):
        params, others = learner.init(seed=3), again.init(seed=3)
        assert all(torch.equal(params[name].data, others[name].data) for name in params)
        assert repr(again.inner.optimizer) == repr(learner.inner.optimizer)
