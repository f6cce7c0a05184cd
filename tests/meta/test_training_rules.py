"""Rules of training that are learned, against the same written out in torch, in float64, and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import Distillation, Hyperparameters, LearnedLoss, LearnedOptimizer, Regression, Step, meta_gradient
from meta.evaluate import evaluate
from neo import LiteTensor, pytree
from tasks import Batch, Quadratics, Task
from tasks.task import IGNORED

LINEAR = neo.nn.Linear(4, 1, bias=False)
CLASSIFIER = neo.nn.MLP(6, 5, 3)
STEP = Step(seed=11, training=True)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LEAST_SQUARES = Task(Batch(draw(7, 4), draw(7, 1, seed=1)), Batch(draw(5, 4, seed=2), draw(5, 1, seed=3)))
CLASSES = Task(
    Batch(draw(9, 6), torch.arange(9) % 3),
    Batch(draw(8, 6, seed=1), torch.arange(8) % 3),
)


def in_double(tree):
    return pytree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), tree)


def required(tree):
    """The same values as torch tensors that torch.autograd differentiates by."""
    return pytree.tree_map(lambda leaf: leaf.data.clone().requires_grad_(), tree)


def start(model) -> dict[str, torch.Tensor]:
    return {
        name: leaf.data.clone().requires_grad_()
        for name, leaf in model.init(seed=STEP.seed, dtype=torch.float64).items()
    }


def logits(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return F.linear(
        torch.relu(F.linear(x, w["linear0.weight"], w["linear0.bias"])),
        w["linear1.weight"],
        w["linear1.bias"],
    )


def trained(w: dict, loss: Callable, update: Callable, steps: int) -> list[dict]:
    """w after 1, 2, ... steps: update(name, gradient, step) is subtracted."""
    found = []
    for k in range(steps):
        gradients = torch.autograd.grad(loss(w), list(w.values()), create_graph=True)
        w = {name: leaf - update(name, g, k) for (name, leaf), g in zip(w.items(), gradients, strict=True)}
        found.append(w)
    return found


def expect_gradient(learner, params, task: Task, objective: Callable) -> None:
    """That of the learner at `params` is torch's of objective, a function of their copies."""
    found = learner.task_gradient(params, task, STEP)
    copies = required(params)
    expected = torch.autograd.grad(objective(copies), pytree.leaves(copies))
    for ours, theirs in zip(pytree.leaves(found.gradient), expected, strict=True):
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(ours.data, theirs, rtol=1e-9, atol=1e-12)


def test_hypergradient_is_torchs_through_the_whole_run():
    learner = Hyperparameters(CLASSIFIER, inner_lr=0.3, inner_steps=4, decay=0.05)

    def objective(params) -> torch.Tensor:
        def loss(w):
            decay = sum(0.5 * torch.exp(params["log_decay"][name]) * w[name].square().sum() for name in w)
            return F.cross_entropy(logits(w, CLASSES.support.x), CLASSES.support.y) + decay

        def update(name, gradient, k):
            return torch.exp(params["log_rate"][name]) * gradient

        end = trained(start(CLASSIFIER), loss, update, 4)[-1]
        return F.cross_entropy(logits(end, CLASSES.query.x), CLASSES.query.y)

    expect_gradient(learner, in_double(learner.init(0)), CLASSES, objective)


def test_hypergradient_online_is_that_of_the_next_steps_and_weights_are_carried():
    learner = Hyperparameters(
        LINEAR, inner_lr=0.1, inner_steps=1, decay=0.01, online=True, problem=Regression()
    )
    params = in_double(learner.init(0))
    carried = {"weight": LiteTensor(draw(1, 4, seed=5))}
    w, (x, y), (u, v) = (
        carried["weight"].data,
        *((b.x, b.y) for b in (LEAST_SQUARES.support, LEAST_SQUARES.query)),
    )
    slope = 2 / 7 * (w @ x.T - y.T) @ x + 0.01 * w
    after = w - 0.1 * slope
    towards = 2 / 5 * (after @ u.T - v.T) @ u
    found = learner.task_gradient(params, LEAST_SQUARES, STEP.replace(state=carried))
    torch.testing.assert_close(found.state["weight"].data, after)
    # dL/dlog α = −α ⟨∇L_query, slope⟩,  dL/dlog λ = −α λ ⟨∇L_query, w⟩
    for part, expected in (("log_rate", slope), ("log_decay", 0.01 * w)):
        torch.testing.assert_close(found.gradient[part]["weight"].data, -0.1 * (towards * expected).sum())


def test_online_run_goes_on_from_update_to_update():
    learner = Hyperparameters(LINEAR, inner_lr=0.05, inner_steps=3, online=True, problem=Regression())
    params = learner.init(0)
    sampler = Quadratics(dims=4).sampler("train", seed=0)
    state = learner.init_state(params)
    losses = []
    for _ in range(20):
        found = meta_gradient(learner, params, sampler.sample(0, 1), state=state)
        state = found.state
        losses.append(float(found.loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    # What is evaluated is that run.
    held_out = evaluate(learner, params, sampler, 1, state=state, inner_steps=0)
    assert held_out.loss == pytest.approx(losses[-1])


def network(params, entries: torch.Tensor) -> torch.Tensor:
    for k in range(2):
        entries = F.elu(F.linear(entries, params[f"linear{k}.weight"], params[f"linear{k}.bias"]))
    return F.softplus(F.linear(entries, params["linear2.weight"], params["linear2.bias"]))


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_gradient_of_a_learned_loss_is_torchs_double_backward(kind):
    regression = kind == "regression"
    model, task = (LINEAR, LEAST_SQUARES) if regression else (CLASSIFIER, CLASSES)
    options = {"problem": Regression()} if regression else {}
    learner = LearnedLoss(model, hidden=6, inner_lr=0.5, inner_steps=3, **options)

    def predict(w, x):
        return F.linear(x, w["weight"]) if regression else logits(w, x)

    def objective(params) -> torch.Tensor:
        def loss(w):
            prediction, y = predict(w, task.support.x), task.support.y
            if not regression:
                prediction, y = prediction.log_softmax(1), torch.eye(3, dtype=torch.float64)[y]
            pairs = [torch.stack([p, t]) for p, t in zip(prediction.reshape(-1), y.reshape(-1), strict=True)]
            return sum(network(params, pair) for pair in pairs).squeeze() / len(pairs)

        end = trained(start(model), loss, lambda name, g, k: 0.5 * g, 3)[-1]
        judged = F.mse_loss if regression else F.cross_entropy
        return judged(predict(end, task.query.x), task.query.y)

    expect_gradient(learner, in_double(learner.init(0)), task, objective)


def test_learned_loss_is_the_mean_over_the_pixels_that_count():
    learner = LearnedLoss(CLASSIFIER, hidden=6, inner_lr=0.5)
    params = in_double(learner.init(0))
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (2, 4, 5), generator=generator)
    counted = torch.rand(2, 4, 5, generator=generator) < 0.6

    of_all = learner.learned_loss(params, LiteTensor(scores), torch.where(counted, y, IGNORED))
    of_those = learner.learned_loss(params, LiteTensor(scores.movedim(1, -1)[counted]), y[counted])
    torch.testing.assert_close(of_all.data, of_those.data, rtol=1e-12, atol=0)
    found = neo.grad(lambda s: learner.learned_loss(params, s, torch.where(counted, y, IGNORED)), 0)(
        LiteTensor(scores)
    )
    assert torch.equal(
        found.data.movedim(1, -1)[~counted], torch.zeros((~counted).sum(), 3, dtype=torch.float64)
    )


def test_distilled_images_and_rates_get_torchs_gradient():
    learner = Distillation(CLASSIFIER, classes=3, shape=(6,), per_class=2, inner_lr=0.4, inner_steps=3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def objective(params) -> torch.Tensor:
        end = trained(
            start(CLASSIFIER),
            lambda w: F.cross_entropy(logits(w, params["images"]), labels),
            lambda name, g, k: torch.exp(params["log_rates"][k]) * g,
            3,
        )[-1]
        return F.cross_entropy(logits(end, CLASSES.query.x), CLASSES.query.y)

    expect_gradient(learner, in_double(learner.init(0)), CLASSES, objective)


def lstm_update(params, size: float) -> Callable:
    """Andrychowicz et al., by torch's own cells."""
    cells = [torch.nn.LSTMCell(2 if k == 0 else 20, 20, dtype=torch.float64) for k in range(2)]
    states = [(torch.zeros(4, 20, dtype=torch.float64),) * 2 for _ in cells]

    def update(name, g, k):
        g = g.detach().flatten()
        x = torch.stack(
            [
                torch.where(g.abs() >= math.exp(-10), g.abs().log() / 10, torch.tensor(-1.0).double()),
                torch.where(g.abs() >= math.exp(-10), g.sign(), math.exp(10) * g),
            ],
            1,
        )
        for layer, cell in enumerate(cells):
            weights = {
                f"{kind}": params["lstm"][f"{kind}_l{layer}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            states[layer] = torch.func.functional_call(cell, weights, (x, states[layer]))
            x = states[layer][0]
        out = F.linear(x, params["output"]["weight"], params["output"]["bias"])
        return -size * out.reshape(1, 4)

    return update


def mlp_update(params, size: float) -> Callable:
    means, square = (
        [torch.zeros(4, dtype=torch.float64) for _ in range(3)],
        torch.zeros(4, dtype=torch.float64),
    )

    def update(name, g, k):
        nonlocal means, square
        g = g.detach().flatten()
        decays = (0.5, 0.9, 0.99)
        means = [b * m + (1 - b) * g for b, m in zip(decays, means, strict=True)]
        square = 0.99 * square + 0.01 * g**2
        root = (square / (1 - 0.99 ** (k + 1)) + 1e-16).sqrt()
        momenta = [g, *(m / (1 - b ** (k + 1)) for b, m in zip(decays, means, strict=True))]
        times = [torch.full((4,), math.tanh((k + 1) / t), dtype=torch.float64) for t in (3, 30, 300)]
        x = torch.stack([*(m / root for m in momenta), *times], 1)
        for layer in range(3):
            x = F.linear(x, params[f"linear{layer}.weight"], params[f"linear{layer}.bias"])
            x = torch.relu(x) if layer < 2 else x
        return -size * (x[:, 0] * x[:, 1].exp()).reshape(1, 4)

    return update


@pytest.mark.parametrize(("rule", "update"), [("lstm", lstm_update), ("mlp", mlp_update)])
def test_gradient_of_a_learned_optimizer_is_torchs_with_constant_gradients(rule, update):
    learner = LearnedOptimizer(
        LINEAR, rule=rule, scale=0.2, inner_steps=4, meta_gradient="first_order", problem=Regression()
    )

    def loss(w, batch: Batch) -> torch.Tensor:
        return F.mse_loss(F.linear(batch.x, w["weight"]), batch.y)

    def objective(params) -> torch.Tensor:
        iterates = trained(start(LINEAR), lambda w: loss(w, LEAST_SQUARES.support), update(params, 0.2), 4)
        return torch.stack([loss(w, LEAST_SQUARES.query) for w in iterates]).mean()

    expect_gradient(learner, in_double(learner.init(0)), LEAST_SQUARES, objective)


def test_rule_adam_is_adam():
    learner = LearnedOptimizer(LINEAR, rule="adam", scale=0.3, inner_steps=5, problem=Regression())
    weight = torch.nn.Parameter(start(LINEAR)["weight"].detach())
    theirs = torch.optim.Adam([weight], lr=0.3)
    for _ in range(5):
        theirs.zero_grad()
        F.mse_loss(F.linear(LEAST_SQUARES.support.x, weight), LEAST_SQUARES.support.y).backward()
        theirs.step()
    ours = learner.adapt(in_double(learner.init(0)), LEAST_SQUARES.support, STEP).params
    torch.testing.assert_close(ours["weight"].data, weight.detach(), rtol=1e-6, atol=1e-8)


def test_every_task_starts_from_weights_of_its_own_and_those_of_an_update_may_share_them():
    def started(shared: bool, **where) -> torch.Tensor:
        learner = LearnedLoss(LINEAR, shared_start=shared, problem=Regression())
        params = learner.init(0)
        return learner.start(params, Step(**where))["weight"].data

    one, other = {"seed": 1, "slot": 0}, {"seed": 2, "slot": 1}
    for training in (True, False):
        assert not torch.equal(
            started(False, training=training, **one), started(False, training=training, **other)
        )
    assert torch.equal(started(True, training=True, **one), started(True, training=True, **other))
    assert not torch.equal(
        started(True, training=True, iteration=0), started(True, training=True, iteration=1)
    )
    assert not torch.equal(started(True, **one), started(True, **other))  # an evaluation


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Hyperparameters(LINEAR, inner_lr=0.0), "inner_lr is where a positive number .* got 0.0"),
        (lambda: Hyperparameters(LINEAR, decay=-1.0), "decay is where a positive number .* got -1.0"),
        (lambda: LearnedLoss(LINEAR, hidden=0), "hidden must be an integer of 1 or more, got 0"),
        (lambda: LearnedOptimizer(LINEAR, rule="gru"), "rule must be one of lstm, mlp, adam, got 'gru'"),
        (lambda: LearnedOptimizer(LINEAR, scale=0.0), "scale must be finite and above 0"),
        (lambda: LearnedOptimizer(LINEAR, inner_lr=0.1), "leave inner_lr and inner_optimizer out"),
        (lambda: Distillation(LINEAR, per_class=0), "per_class must be an integer of 1 or more, got 0"),
        (lambda: Distillation(LINEAR, inner_lr=math.inf), "inner_lr must be finite and above 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_distilled_images_of_another_shape_than_the_tasks_are_refused():
    learner = Distillation(CLASSIFIER, classes=3, shape=(1, 4, 4))
    with pytest.raises(
        ValueError, match=r"shape=\(1, 4, 4\), and the tasks' inputs of \(6,\); set algorithm.shape"
    ):
        learner.adapt(learner.init(0), CLASSES.support, Step())
