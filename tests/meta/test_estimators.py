"""Estimators of the meta-gradient: equal to the exact one where they are exact, off as derived where they are not."""

from __future__ import annotations

import optree
import pytest
import torch

import meta
import neo
from meta import ANIL, MAML, MAMLPlusPlus, MetaSGD, Step, meta_gradient
from meta.evolution import generator, noise_like
from neo import LiteTensor
from tasks import Batch, Task
from tests.meta.quadratic import BODY, SIZE, Tasks, flat

EYE = torch.eye(SIZE, dtype=torch.float64)


def agree(found, expected, rtol=1e-10):
    """Relative to the largest entry of all: the bias before a batch norm has a gradient of 0, known up to rounding."""
    scale = max(leaf.data.abs().max().item() for leaf in optree.tree_leaves(expected))
    for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=0, atol=rtol * scale)


def image_tasks() -> Task:
    generator = torch.Generator().manual_seed(0)

    def batch(count):
        x = torch.rand(2, 3 * count, 1, 12, 12, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(3).repeat_interleave(count).expand(2, -1).clone())

    return Task(batch(1), batch(4))


CONV = neo.nn.Conv4(ways=3, hidden=4, size=12)
LEARNERS = {
    "maml": lambda **o: MAML(CONV, inner_lr=0.3, inner_steps=3, **o),
    "maml with adam and clipping": lambda **o: MAML(
        CONV, inner_optimizer=neo.optim.adam(0.01), inner_clip=0.5, inner_steps=3, **o
    ),
    "anil": lambda **o: ANIL(CONV, inner_lr=0.3, inner_steps=3, **o),
    "meta-sgd": lambda **o: MetaSGD(CONV, inner_lr=0.3, inner_steps=3, **o),
    "maml++": lambda **o: MAMLPlusPlus(CONV, inner_steps=3, **o),
    "maml++ after annealing": lambda **o: MAMLPlusPlus(CONV, inner_steps=3, msl_iterations=0, **o),
    "no steps": lambda **o: MAML(CONV, inner_steps=0, **o),
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("segment", [None, 2], ids=["mixed", "in segments"])
def test_mixed_has_the_numbers_of_reverse(name, segment):
    exact, mixed = LEARNERS[name](), LEARNERS[name](meta_gradient="mixed", mixed_segment=segment)
    params = optree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), exact.init(seed=0))
    expected, found = (
        meta_gradient(learner, params, image_tasks(), iteration=7) for learner in (exact, mixed)
    )
    agree(found.gradient, expected.gradient)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.score, expected.score)


def test_mixed_goes_through_vmap():
    exact, mixed = (MAML(CONV, inner_lr=0.3, inner_steps=2, meta_gradient=m) for m in ("reverse", "mixed"))
    params = optree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), CONV.init(seed=0))
    found = meta_gradient(mixed, params, image_tasks(), workers=meta.Batched())
    agree(found.gradient, meta_gradient(exact, params, image_tasks()).gradient)


@pytest.mark.parametrize("segment", [None, 5])
def test_mixed_keeps_the_parameters_alone(segment):
    """What the tape of the outer session holds after n inner steps, in bytes, by the difference of two n."""

    def held(steps, **options):
        found = []

        def objective(params):
            learner = MAML(CONV, inner_lr=0.01, inner_steps=steps, **options)
            adapted = learner.iterates(params, image_tasks()[0].support, Step()).end()
            seen: dict[int, int] = {}
            for node in neo.autograd.TapeContext.current().nodes:
                for value in node.policy.ctx.saved:
                    if isinstance(value, torch.Tensor):
                        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            found.append((len(neo.autograd.TapeContext.current()), sum(seen.values())))
            return sum(leaf.sum() for leaf in adapted.values())

        params = optree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), CONV.init(seed=0))
        neo.grad(objective, argnums=0)(params)
        return found[0]

    nodes, saved = held(20, meta_gradient="mixed", mixed_segment=segment)
    many, most = held(20)
    assert saved < 0.02 * most
    # three segments are a node each, and the last, five steps, goes as it does without
    assert nodes == (3 + 5 * 2 if segment else 20 * 2)
    assert many > 20 * 10


# --- implicit --------------------------------------------------------------------------------------------------------


def solved(tasks: Tasks, strength: float, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The closed form of the mean meta-gradient where the entries `which` of θ adapt, and of the adapted θ's loss."""
    total = torch.zeros(SIZE, dtype=torch.float64)
    losses = []
    theta, a, inner = tasks.theta(), tasks.A, which.nonzero()[:, 0]
    outer = (~which).nonzero()[:, 0]
    for centre, target in tasks.tasks():
        system = a[inner][:, inner] + strength * torch.eye(len(inner), dtype=torch.float64)
        right = a[inner] @ centre - a[inner][:, outer] @ theta[outer] + strength * theta[inner]
        adapted = theta.clone()
        adapted[inner] = torch.linalg.solve(system, right)
        slope = adapted - target
        u = torch.linalg.solve(system, slope[inner])
        total[inner] += strength * u
        total[outer] += slope[outer] - a[outer][:, inner] @ u
        losses.append(0.5 * (slope**2).sum())
    return total / len(losses), torch.stack(losses)


@pytest.mark.parametrize("adapt", ["*", "head.*"])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_implicit_is_the_closed_form_where_the_inner_loop_and_the_system_are_solved(adapt, strength):
    tasks = Tasks()
    which = torch.arange(SIZE) >= (0 if adapt == "*" else BODY)
    rate = 1 / (torch.linalg.eigvalsh(tasks.A)[-1].item() + strength)
    learner = MAML(
        tasks.model, inner_lr=rate, inner_steps=600, problem=tasks.problem, adapt=adapt,
        meta_gradient="implicit", implicit_strength=strength, implicit_iterations=SIZE,
    )  # fmt: skip
    found = meta_gradient(learner, tasks.params(), tasks.batch())
    expected, losses = solved(tasks, strength, which)
    agree(flat(found.gradient), expected, 1e-8)
    torch.testing.assert_close(found.loss, losses)


def test_implicit_converges_with_the_inner_steps_and_with_cg():
    tasks, strength = Tasks(), 2.0
    rate = 1 / (torch.linalg.eigvalsh(tasks.A)[-1].item() + strength)
    expected, _ = solved(tasks, strength, torch.ones(SIZE, dtype=torch.bool))

    def error(steps, iterations):
        learner = MAML(
            tasks.model, inner_lr=rate, inner_steps=steps, problem=tasks.problem,
            meta_gradient=meta.Implicit(strength, iterations),
        )  # fmt: skip
        return (flat(meta_gradient(learner, tasks.params(), tasks.batch()).gradient) - expected).norm().item()

    by_steps = [error(steps, SIZE) for steps in (1, 4, 16, 64)]
    by_products = [error(400, iterations) for iterations in (1, 2, 3, SIZE)]
    assert by_steps == sorted(by_steps, reverse=True)
    assert by_products == sorted(by_products, reverse=True)
    assert by_products[-1] < 1e-8 < by_products[0]


def test_implicit_keeps_nothing_of_the_inner_loop():
    tasks, nodes = Tasks(), []

    def objective(params, steps):
        learner = MAML(
            tasks.model, inner_lr=0.01, inner_steps=steps, problem=tasks.problem, meta_gradient="implicit"
        )
        adapted = learner.iterates(params, tasks.batch()[0].support, Step()).end()
        nodes.append(len(neo.autograd.TapeContext.current()))
        return sum((leaf**2).sum() for leaf in adapted.values())

    for steps in (1, 50):
        neo.grad(objective, argnums=0)(tasks.params(), steps)
    assert nodes == [1, 1]


def test_evaluation_adapts_as_implicit_trains():
    tasks = Tasks()
    learner = MAML(tasks.model, inner_lr=0.05, inner_steps=3, problem=tasks.problem, meta_gradient="implicit")
    support = tasks.batch()[0].support
    seen = [flat(params) for params in learner.iterates(tasks.params(), support, Step())]
    assert len(seen) == 4
    torch.testing.assert_close(seen[-1], flat(learner.iterates(tasks.params(), support, Step()).end()))
    plain = MAML(tasks.model, inner_lr=0.05, inner_steps=3, problem=tasks.problem)
    assert not torch.allclose(seen[-1], flat(plain.iterates(tasks.params(), support, Step()).end()))


# --- evolution strategies --------------------------------------------------------------------------------------------


def evolved(pairs: int, seed: int = 0, sigma: float = 0.1) -> tuple[Tasks, torch.Tensor, torch.Tensor]:
    """The estimate of one task, and the exact gradient."""
    tasks = Tasks()
    options = {"inner_lr": 0.05, "inner_steps": 2, "problem": tasks.problem}
    learner = MAML(tasks.model, meta_gradient="es", es_sigma=sigma, es_pairs=pairs, **options)
    step = Step(seed=seed, training=True)
    task = tasks.batch()[0]
    exact = MAML(tasks.model, **options).task_gradient(tasks.params(), task, step)
    found = learner.task_gradient(tasks.params(), task, step)
    torch.testing.assert_close(found.loss.data, exact.loss.data)
    return tasks, flat(found.gradient), flat(exact.gradient)


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_es_on_a_quadratic_is_the_exact_gradient_seen_along_the_noise(sigma):
    tasks, found, exact = evolved(7, sigma=sigma)
    draw = generator(tasks.params(), 0, 0)
    drawn = [noise_like(tasks.params(), draw) for _ in range(7)]
    noise = torch.stack([torch.cat([one["body.theta"], one["head.theta"]]) for one in drawn])
    torch.testing.assert_close(found, noise.T @ (noise @ exact) / 7, rtol=1e-7, atol=1e-9)


def test_es_has_no_bias_on_a_quadratic_and_the_derived_variance():
    tasks, pairs, runs = Tasks(), 4, 4000
    a, b = LiteTensor(tasks.A), LiteTensor(tasks.centres[0])
    theta = {"theta": LiteTensor(tasks.theta())}
    exact = (a @ theta["theta"] + b).data

    def objective(params):
        x = params["theta"]
        return 0.5 * (x @ (a @ x)) + b @ x, None

    estimator = meta.EvolutionStrategies(sigma=0.1, pairs=pairs)
    found = torch.stack(
        [estimator.estimate(objective, theta, Step(seed=seed)).gradient["theta"].data for seed in range(runs)]
    )
    variance = (exact @ exact + exact**2) / pairs
    error = (found.mean(0) - exact) / (variance / runs).sqrt()
    assert error.abs().max() < 4.5  # one of five normal variables beyond it: 3 in 100 000
    assert (found.var(0) / variance - 1).abs().max() < 0.25


def test_es_draws_by_the_seed_of_the_step():
    assert torch.equal(evolved(3, 5)[1], evolved(3, 5)[1])
    assert not torch.equal(evolved(3, 5)[1], evolved(3, 6)[1])


# --- first order, truncated ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_bias_of_what_treats_gradients_as_constants_is_as_derived(kept):
    """On a quadratic the exact factor is (I − αA)ⁿ; with k gradients differentiated it is (I − αA)ᵏ."""
    tasks, rate, steps = Tasks(), 0.05, 3
    estimator = meta.FirstOrder() if kept == 0 else meta.Truncated(kept)
    learner = MAML(
        tasks.model, inner_lr=rate, inner_steps=steps, problem=tasks.problem, meta_gradient=estimator
    )
    way = EYE - rate * tasks.A
    expected = torch.zeros(SIZE, dtype=torch.float64)
    for centre, target in tasks.tasks():
        adapted = centre + torch.linalg.matrix_power(way, steps) @ (tasks.theta() - centre)
        expected += torch.linalg.matrix_power(way, kept) @ (adapted - target) / 2
    agree(flat(meta_gradient(learner, tasks.params(), tasks.batch()).gradient), expected)
