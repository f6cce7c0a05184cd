"""ES-MAML on quadratics, where an antithetic estimate is known for the noise that it drew."""

from __future__ import annotations

import pytest
import torch

import neo
from meta import ESMAML, MAML, Step, meta_gradient
from meta.algorithms.es_maml import INNER, OUTER, generator
from meta.evolution import Smoothing, noise_like
from meta.learner import seed_of
from tests.meta.quadratic import Tasks, flat

ALPHA, STEPS = 0.07, 2


def at(slot: int, iteration: int = 0) -> Step:
    return Step(iteration, slot, seed_of(0, iteration, slot), training=True)


def exact(tasks: Tasks, slot: int) -> torch.Tensor:
    learner = MAML(tasks.model, inner_lr=ALPHA, inner_steps=STEPS, problem=tasks.problem)
    return flat(learner.task_gradient(tasks.params(), tasks.batch()[slot], at(slot)).gradient)


def es_maml(tasks: Tasks, **options) -> ESMAML:
    return ESMAML(tasks.model, inner_lr=ALPHA, inner_steps=STEPS, problem=tasks.problem, **options)


def test_estimate_of_a_cubic_is_its_formula():
    params = {
        "a": neo.LiteTensor(torch.tensor([0.5, -1.0], dtype=torch.float64)),
        "b": neo.LiteTensor([[2.0]]),
    }

    def fn(at):
        return (at["a"] ** 3).sum() + (at["a"] * 2.0).sum() * at["b"].sum().to(torch.float64)

    found, values = Smoothing(0.3, 4).gradient(fn, params, torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    expected = {name: torch.zeros(leaf.shape, dtype=leaf.dtype) for name, leaf in params.items()}
    for _ in range(4):
        noise = {
            name: torch.randn(leaf.shape, generator=draw, dtype=leaf.dtype) for name, leaf in params.items()
        }
        up, down = (
            float(fn({name: leaf + sign * 0.3 * noise[name] for name, leaf in params.items()}).data)
            for sign in (1, -1)
        )
        for name, eps in noise.items():
            expected[name] += (up - down) / (2 * 0.3 * 4) * eps
    assert values.shape == (8,)
    for name, leaf in expected.items():
        torch.testing.assert_close(getattr(found[name], "data", found[name]), leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 1.0])
@pytest.mark.parametrize("vectorized", [False, True])
def test_gradient_of_a_quadratic_is_the_exact_one_seen_along_the_noise(sigma, vectorized):
    """J is quadratic in θ, so that ĝ = (1/n) Σ εᵢ (εᵢᵀ ∇J), whatever σ is."""
    tasks, pairs = Tasks(), 3
    learner = es_maml(tasks, sigma=sigma, pairs=pairs, vectorized=vectorized)
    for slot in range(2):
        step = at(slot)
        found = learner.task_gradient(tasks.params(), tasks.batch()[slot], step)
        draw = generator(tasks.params(), step.seed, OUTER)
        drawn = [noise_like(tasks.params(), draw) for _ in range(pairs)]
        noise = torch.stack([torch.cat([one["body.theta"], one["head.theta"]]) for one in drawn])
        expected = (noise.T @ (noise @ exact(tasks, slot))) / pairs
        torch.testing.assert_close(flat(found.gradient), expected, rtol=1e-7, atol=1e-9)


def test_estimate_is_unbiased_within_its_own_error():
    """The mean of 400 estimates lies within 4.5 standard errors in every entry: less than one in 10⁵ by chance."""
    tasks = Tasks()
    learner = es_maml(tasks, sigma=0.5, pairs=2)
    params, task = tasks.params(), tasks.batch()[0]
    found = torch.stack([flat(learner.task_gradient(params, task, at(slot)).gradient) for slot in range(400)])
    error = found.std(0) / len(found) ** 0.5
    assert bool(((found.mean(0) - exact(tasks, 0)).abs() < 4.5 * error).all())
    assert float(error.max()) < 0.2 * float(exact(tasks, 0).norm())


def test_noise_is_a_function_of_the_step_and_of_nothing_else():
    tasks = Tasks()
    learner = es_maml(tasks, adaptation="es", pairs=2)
    params, task = tasks.params(), tasks.batch()[0]

    def estimate(step):
        return flat(learner.task_gradient(params, task, step).gradient)

    first = estimate(at(0))
    torch.manual_seed(1)
    assert torch.equal(first, estimate(at(0)))
    for other in (at(1), at(0, iteration=1)):
        assert not torch.equal(first, estimate(other))


def test_adaptation_by_values_alone_takes_no_gradient(monkeypatch):
    tasks = Tasks()

    def refuse(*_, **__):
        raise AssertionError("a derivative was taken")

    monkeypatch.setattr(neo, "grad", refuse)
    monkeypatch.setattr(neo, "value_and_grad", refuse)
    learner = es_maml(tasks, adaptation="es", inner_pairs=5)
    step = at(0)
    adapted = learner.adapt(tasks.params(), tasks.batch()[0].support, step.replace(inner_steps=1)).params
    draw = generator(tasks.params(), step.seed, INNER)
    drawn = [noise_like(tasks.params(), draw) for _ in range(5)]
    noise = torch.stack([torch.cat([one["body.theta"], one["head.theta"]]) for one in drawn])
    gradient = tasks.A @ (tasks.theta() - tasks.centres[0])
    expected = tasks.theta() - ALPHA * noise.T @ (noise @ gradient) / 5
    torch.testing.assert_close(flat(adapted), expected, rtol=1e-7, atol=1e-9)
    assert learner.task_gradient(tasks.params(), tasks.batch()[0], step).metrics.keys() == {"perturbed_loss"}


def test_meta_batch_averages_the_tasks_estimates():
    tasks = Tasks()
    learner = es_maml(tasks)
    found = meta_gradient(learner, tasks.params(), tasks.batch())
    each = [flat(learner.task_gradient(tasks.params(), tasks.batch()[i], at(i)).gradient) for i in range(2)]
    torch.testing.assert_close(flat(found.gradient), sum(each) / 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number above 0, got 0.0"),
        ({"pairs": 0}, "pairs must be an integer of 1 or more, got 0"),
        ({"adaptation": "evolve"}, "adaptation must be one of gradient, es; got 'evolve'"),
        ({"inner_pairs": 3}, "are of adaptation='es'"),
        ({"adaptation": "es", "inner_sigma": -1.0}, "inner_sigma must be a finite number above 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        es_maml(Tasks(), **options)
