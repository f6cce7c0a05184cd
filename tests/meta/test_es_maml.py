"""ES-MAML against numpy for given noise, and against the exact gradient in expectation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta import ESMAML, Step, Supervised
from meta.evolution import Smoothing, noise_like
from meta.metrics import read_metrics
from meta.problems import MSE
from meta.run import Run
from neo import LiteTensor
from tasks import Batch, Task

SIZES = {"body": 2, "head": 3}
SIZE = sum(SIZES.values())
ALPHA, STEPS, SIGMA = 0.1, 2, 0.7

_root = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
HESSIAN = _root @ _root.T / SIZE
THETA, CENTRE, TARGET = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Theta(neo.nn.Module):
    """Predicts θ whatever it is shown."""

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {name: torch.randn(size, generator=generator) for name, size in SIZES.items()}

    def __call__(self, params, x):
        return torch.cat([params["body"], params["head"]])


class Quadratic(Supervised):
    """Support loss ½ (θ − c)ᵀ A (θ − c), query loss ½ ‖θ − q‖²; c and q are the sets' y."""

    metric = MSE

    def inner_loss(self, prediction, y):
        away = prediction - y[:, 0]
        return 0.5 * away @ HESSIAN @ away

    def loss(self, prediction, y):
        return 0.5 * ((prediction - y[:, 0]) ** 2).sum()

    def score(self, prediction, y):
        return (prediction - y[:, 0]) ** 2


def learner(**settings) -> ESMAML:
    settings = {"sigma": SIGMA, "inner_lr": ALPHA, "inner_steps": STEPS, "problem": Quadratic(), **settings}
    return ESMAML(Theta(), **settings)


def params() -> dict[str, LiteTensor]:
    body, head = THETA.split(list(SIZES.values()))
    return {"body": LiteTensor(body), "head": LiteTensor(head)}


def task() -> Task:
    def examples(y: torch.Tensor) -> Batch:
        return Batch(torch.zeros(SIZE, 1, dtype=torch.float64), y[:, None])

    return Task(examples(CENTRE), examples(TARGET))


def flat(tree) -> np.ndarray:
    return torch.cat([torch.as_tensor(getattr(tree[name], "data", tree[name])) for name in SIZES]).numpy()


@pytest.fixture
def drawn(monkeypatch) -> dict[int, list[np.ndarray]]:
    """The noise that is drawn: seed of the generator → vectors, one after the other."""
    found: dict[int, list[np.ndarray]] = {}

    def watched(like, generator):
        noise = noise_like(like, generator)
        found.setdefault(generator.initial_seed(), []).append(flat(noise))
        return noise

    monkeypatch.setattr("meta.evolution.noise_like", watched)
    return found


def estimate_in_numpy(fn, at: np.ndarray, noise: list[np.ndarray], sigma: float) -> np.ndarray:
    pairs = [(fn(at + sigma * one) - fn(at - sigma * one)) * one for one in noise]
    return np.sum(pairs, axis=0) / (2 * sigma * len(noise))


A, C, Q = HESSIAN.numpy(), CENTRE.numpy(), TARGET.numpy()


def support_loss(theta: np.ndarray) -> float:
    return 0.5 * (theta - C) @ A @ (theta - C)


def query_loss(theta: np.ndarray) -> float:
    return 0.5 * (theta - Q) @ (theta - Q)


def exact_gradient(steps: int = STEPS) -> np.ndarray:
    """(I − αA)ᴷ (θ_K − q): MAML's on this problem."""
    step = np.linalg.matrix_power(np.eye(SIZE) - ALPHA * A, steps)
    return step @ (C + step @ (THETA.numpy() - C) - Q)


@pytest.mark.parametrize("vectorized", [False, True])
def test_estimate_for_given_noise_is_numpys(drawn, vectorized):
    found = learner(pairs=6, vectorized=vectorized).task_gradient(params(), task(), Step(seed=11))
    (noise,) = drawn.values()
    assert len(noise) == 6

    def after_adaptation(theta: np.ndarray) -> float:
        for _ in range(STEPS):
            theta = theta - ALPHA * A @ (theta - C)
        return query_loss(theta)

    expected = estimate_in_numpy(after_adaptation, THETA.numpy(), noise, SIGMA)
    np.testing.assert_allclose(flat(found.gradient), expected, rtol=1e-11)
    # Of a quadratic it is the exact gradient, seen along the directions that were drawn.
    along = np.mean([one * (one @ exact_gradient()) for one in noise], axis=0)
    np.testing.assert_allclose(flat(found.gradient), along, rtol=1e-11)
    np.testing.assert_allclose(float(found.loss), after_adaptation(THETA.numpy()), rtol=1e-12)
    perturbed = [after_adaptation(THETA.numpy() + sign * SIGMA * one) for one in noise for sign in (1, -1)]
    np.testing.assert_allclose(float(found.metrics["perturbed_loss"]), np.mean(perturbed), rtol=1e-12)


@pytest.mark.parametrize("vectorized", [False, True])
def test_adaptation_by_values_for_given_noise_is_numpys(drawn, vectorized):
    settings = {"adaptation": "es", "inner_sigma": 0.3, "inner_pairs": 4, "vectorized": vectorized}
    found = learner(pairs=3, **settings).task_gradient(params(), task(), Step(seed=11))
    outer, inner = drawn.values()
    assert len(outer) == 3
    for one in range(0, len(inner), STEPS * 4):  # every adaptation of a task has the same
        np.testing.assert_array_equal(inner[one : one + STEPS * 4], inner[: STEPS * 4])

    def adapted(theta: np.ndarray) -> np.ndarray:
        for step in range(STEPS):
            noise = inner[4 * step : 4 * step + 4]
            theta = theta - ALPHA * estimate_in_numpy(support_loss, theta, noise, 0.3)
        return theta

    expected = estimate_in_numpy(lambda theta: query_loss(adapted(theta)), THETA.numpy(), outer, SIGMA)
    np.testing.assert_allclose(flat(found.gradient), expected, rtol=1e-10)
    predictor = learner(pairs=3, **settings).adapt(params(), task().support, Step(seed=11))
    np.testing.assert_allclose(predictor(None).data.numpy(), adapted(THETA.numpy()), rtol=1e-11)
    assert len(predictor.trajectory) == STEPS + 1


def test_estimate_is_unbiased():
    """20 000 pairs against the exact meta-gradient, whose estimate has variance (‖g‖² + g²) / n, entry by entry.

    4.5 standard errors in each of 5 entries: a right estimator passes for all but 4 of 100 000 seeds.
    """
    pairs = 20_000
    found = learner(pairs=pairs, vectorized=True).task_gradient(params(), task(), Step(seed=5))
    exact = exact_gradient()
    error = np.sqrt((exact @ exact + exact**2) / pairs)
    assert np.all(np.abs(flat(found.gradient) - exact) < 4.5 * error)
    # What would be left without second derivatives is told from it.
    first_order = np.linalg.inv(np.linalg.matrix_power(np.eye(SIZE) - ALPHA * A, STEPS)) @ exact
    assert np.any(np.abs(first_order - exact) > 9 * error)


def test_estimate_by_values_alone_is_unbiased():
    """An inner step of n' pairs is −α M A(θ − c), M the mean of n' matrices ε εᵀ: E[M] = I, E[M²] = (1 + (d + 1)/n') I.

    4.5 standard errors in each of 5 entries: a right estimator passes for all but 4 of 100 000 seeds.
    """
    inner_pairs, theta = 2, THETA.numpy()
    pull = A @ (theta - C)
    exact = (theta - Q) - ALPHA * pull - ALPHA * A @ (theta - Q)
    exact += ALPHA**2 * (1 + (SIZE + 1) / inner_pairs) * A @ pull
    algorithm = learner(
        adaptation="es", inner_pairs=inner_pairs, inner_steps=1, pairs=40, vectorized=True, inner_lr=ALPHA
    )
    found = np.stack(
        [flat(algorithm.task_gradient(params(), task(), Step(seed=seed)).gradient) for seed in range(150)]
    )
    error = found.std(0, ddof=1) / math.sqrt(len(found))
    assert np.all(np.abs(found.mean(0) - exact) < 4.5 * error)


def test_gradient_is_of_the_smoothed_function():
    """E[sin(θ + σ ε)] = sin θ · exp(−σ²/2); 4.5 standard errors in each of 3 entries."""
    theta = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    smoothing = Smoothing(sigma=0.9, pairs=400, vectorized=True)
    generator = torch.Generator().manual_seed(0)
    found = torch.stack(
        [
            smoothing.gradient(lambda at: torch.sin(at).sum(), LiteTensor(theta), generator)[0].data
            for _ in range(60)
        ]
    )
    error = found.std(0) / math.sqrt(len(found))
    exact = theta.cos() * math.exp(-(0.9**2) / 2)
    assert bool(((found.mean(0) - exact).abs() < 4.5 * error).all())
    assert bool(((found.mean(0) - theta.cos()).abs() > 9 * error).any())


@pytest.mark.parametrize("vectorized", [False, True])
def test_random_draws_are_no_difference_between_the_points_of_a_pair(vectorized):
    with neo.nn.draws(0):
        gradient, values = Smoothing(0.1, 3, vectorized).gradient(
            lambda at: torch.rand(()), params(), torch.Generator()
        )
    assert not flat(gradient).any()
    assert len(values) == 6
    assert vectorized or len(set(values.tolist())) == 3  # another draw for every pair


def meta_batch(*tasks: Task) -> Task:
    def stacked(part: str) -> Batch:
        sets = [getattr(one, part) for one in tasks]
        return Batch(torch.stack([one.x for one in sets]), torch.stack([one.y for one in sets]))

    return Task(stacked("support"), stacked("query"))


def test_noise_is_a_pure_function_of_the_step_and_other_for_every_task(drawn):
    algorithm = learner(pairs=2, adaptation="es")
    batch = meta_batch(task(), task())
    found = [meta.meta_gradient(algorithm, params(), batch, iteration=i, seed=7).gradient for i in (0, 1, 0)]
    assert len(drawn) == 8  # two iterations of two slots, outside and inside each
    firsts = [tuple(noise[0]) for noise in drawn.values()]
    assert len(set(firsts)) == 8
    np.testing.assert_array_equal(flat(found[0]), flat(found[2]))
    assert not np.array_equal(flat(found[0]), flat(found[1]))
    other = meta.meta_gradient(algorithm, params(), batch, seed=8).gradient
    assert not np.array_equal(flat(other), flat(found[0]))


@pytest.mark.parametrize("adaptation", ["gradient", "es"])
def test_only_what_is_to_adapt_does(adaptation):
    adapted = learner(adaptation=adaptation, adapt="head").adapt(params(), task().support, Step())
    np.testing.assert_array_equal(adapted.params["body"].data, params()["body"].data)
    assert bool((adapted.params["head"].data != params()["head"].data).all())


def test_estimates_are_clipped_too():
    at = [
        flat(stage.params)
        for stage in learner(adaptation="es", inner_clip=0.01)
        .adapt(params(), task().support, Step())
        .trajectory
    ]
    np.testing.assert_allclose(np.linalg.norm(at[1] - at[0]), ALPHA * 0.01, rtol=1e-3)


def test_a_session_around_adaptation_by_values_differentiates_through_it():
    algorithm = learner(adaptation="es", inner_sigma=0.3, inner_pairs=2)

    def loss(at):
        return algorithm.adapted_query_loss(at, task(), Step(seed=3))[0]

    neo.autograd.session.gradcheck(loss, (params(),), order=1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number above 0, got 0.0"),
        ({"pairs": 0}, "pairs must be an integer of 1 or more, got 0"),
        ({"adaptation": "es", "inner_pairs": 2.5}, "inner_pairs must be an integer of 1 or more, got 2.5"),
        ({"adaptation": "es", "inner_sigma": math.inf}, "inner_sigma must be a finite number above 0"),
        ({"adaptation": "hill"}, "adaptation must be one of gradient, es; got 'hill'"),
        ({"inner_pairs": 3}, "are of adaptation='es', and adaptation='gradient' reads neither"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=f"ESMAML: .*{sentence}"):
        learner(**settings)


def test_tasks_in_one_call_are_refused():
    with pytest.raises(ValueError, match=r"step\.seed is not known with batched=true"):
        meta.meta_gradient(learner(), params(), meta_batch(task()), workers=meta.Batched())


@pytest.mark.parametrize("adaptation", ["gradient", "es"])
def test_trains_from_its_configuration(tmp_path, adaptation):
    settings = [
        "task=sinusoid",
        "algorithm=es_maml",
        f"algorithm.adaptation={adaptation}",
        "algorithm.pairs=2",
        "algorithm.inner_lr=0.01",
        "algorithm.vectorized=true",
        "task.picture=null",
        "model._args_=[1,8,1]",
        "trainer.iterations=2",
        "trainer.meta_batch=2",
        "trainer.log_every=1",
        "trainer.val_tasks=3",
        "evaluation.tasks=4",
        "device=cpu",
    ]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", settings)
    result = Run(config, tmp_path).train()
    assert (result["protocol"]["sigma"], result["protocol"]["test_inner_steps"]) == (0.1, 1)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert all(math.isfinite(line["train/perturbed_loss"]) for line in lines)
