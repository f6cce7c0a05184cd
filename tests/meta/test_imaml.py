"""iMAML is a configuration of MAML: the paper's settings, and the closed form where what it iterates has converged."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta.experiment import build
from tests.meta.quadratic import SIZE, Tasks, flat


def configured(tasks: Tasks, *overrides: str) -> meta.MetaLearner:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", ["algorithm=imaml", *overrides])
    return build(config.algorithm, model=tasks.model, problem=tasks.problem)


def closed_form(tasks: Tasks, strength: float) -> torch.Tensor:
    """The mean of λ (A + λI)⁻¹ (φ* − q) with φ* = (A + λI)⁻¹ (A c + λθ)."""
    system = tasks.A + strength * torch.eye(SIZE, dtype=torch.float64)
    total = torch.zeros(SIZE, dtype=torch.float64)
    for centre, target in tasks.tasks():
        solution = torch.linalg.solve(system, tasks.A @ centre + strength * tasks.theta())
        total += strength * torch.linalg.solve(system, solution - target)
    return total / len(tasks.tasks())


def test_settings_are_the_papers():
    learner = configured(Tasks())
    assert learner.estimator == meta.Implicit(strength=2.0, iterations=5, tolerance=0.0)
    assert (type(learner), learner.inner.steps) == (meta.MAML, 16)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_meta_gradient_converges_to_the_implicit_one(strength):
    tasks = Tasks()
    rate = 1 / (torch.linalg.eigvalsh(tasks.A)[-1].item() + strength)
    expected = closed_form(tasks, strength)

    def error(steps: int) -> float:
        learner = configured(
            tasks,
            f"algorithm.inner_lr={rate}",
            f"algorithm.inner_steps={steps}",
            f"algorithm.implicit_strength={strength}",
            f"algorithm.implicit_iterations={SIZE}",
        )
        found = flat(meta.meta_gradient(learner, tasks.params(), tasks.batch()).gradient)
        return ((found - expected).norm() / expected.norm()).item()

    errors = [error(steps) for steps in (1, 16, 600)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8 < errors[0]


def test_what_is_kept_for_the_meta_gradient_does_not_grow_with_the_inner_steps():
    """Bytes that the outer session's tape holds after adapting, and for contrast those of plain MAML."""

    def held(steps: int, *overrides: str) -> int:
        tasks, seen = Tasks(), {}
        learner = configured(tasks, f"algorithm.inner_steps={steps}", "algorithm.inner_lr=0.01", *overrides)

        def objective(params):
            adapted = learner.iterates(params, tasks.batch()[0].support, meta.Step()).end()
            for node in neo.autograd.TapeContext.current().nodes:
                for value in getattr(getattr(node.policy, "ctx", None), "saved", ()):
                    if isinstance(value, torch.Tensor):
                        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return sum((leaf**2).sum() for leaf in adapted.values())

        neo.grad(objective, argnums=0)(tasks.params())
        return sum(seen.values())

    plain = (
        "algorithm.meta_gradient=reverse",
        "~algorithm.implicit_strength",
        "~algorithm.implicit_iterations",
    )
    assert held(1) == held(64)
    assert held(64, *plain) > 20 * held(1, *plain) > 0
