"""MAML++ against an independent implementation in torch (double backward); its weights against the authors' formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import MAML, Classification, MAMLPlusPlus, Step, evaluate, meta_gradient
from meta.algorithms.maml_plus_plus import multi_step_weights
from neo import LiteTensor, pytree
from neo.nn import Conv4
from tasks import Batch, Task

WAYS, STEPS, BLOCKS = 3, 3, 2
OFF = {"msl_iterations": 0, "learned_rates": False, "per_step_norm": False}
ON = {"msl_iterations": 8, "learned_rates": True, "per_step_norm": True, "first_order_iterations": 2}


def small_model(fused=False):
    return Conv4(WAYS, size=8, hidden=4, blocks=BLOCKS, fused=fused)


def random_tasks(count=2, dtype=torch.float64, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3 * WAYS, 1, 8, 8, generator=generator).to(dtype)
    y = torch.arange(WAYS).repeat(3).expand(count, -1)
    return Task(Batch(x[:, :WAYS], y[:, :WAYS]), Batch(x[:, WAYS:], y[:, WAYS:]))


class Tasks:
    """A sampler of the same tasks every time."""

    def sample(self, iteration, slots):
        slots = range(slots) if isinstance(slots, int) else slots
        every = random_tasks(8)
        return pytree.tree_map(lambda column: column[list(slots)], every)


def random_meta_parameters(learner, seed=0):
    """Those that init gives, in float64 and moved at random, so that no two rates or sets are equal."""
    generator = torch.Generator().manual_seed(seed)

    def moved(leaf):
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        return LiteTensor(leaf.data.double() + 0.05 * noise)

    return pytree.tree_map(moved, learner.init(seed))


class Reference:
    """MAML++ in torch, as the paper says it. meta: name → leaf that requires grad; rates: the same or one number."""

    def __init__(self, meta, rates, stacked, seen=None, running=None):
        self.meta, self.rates, self.stacked = meta, rates, stacked
        self.seen = {} if seen is None else seen  # (inner steps taken, layer) → what the layer was given
        self.running = running

    def at(self, name, taken):
        leaf = self.meta[name]
        return leaf[min(taken, len(leaf) - 1)] if self.stacked else leaf

    def predict(self, weights, taken, x):
        for block in range(BLOCKS):
            x = F.conv2d(x, weights[f"conv{block}.weight"], weights[f"conv{block}.bias"], stride=2, padding=1)
            self.seen.setdefault((taken, f"norm{block}"), []).append(x.detach())
            scale, shift = (
                weights[f"norm{block}.{kind}"]
                if f"norm{block}.{kind}" in weights
                else self.at(f"norm{block}.{kind}", taken)
                for kind in ("weight", "bias")
            )
            if self.running is None:
                x = F.batch_norm(x, None, None, scale, shift, training=True)
            else:
                mean, variance = (self.running[kind][f"norm{block}"][taken] for kind in ("mean", "variance"))
                x = F.batch_norm(x, mean, variance, scale, shift, training=False)
            x = torch.relu(x)
        return F.linear(x.mean((2, 3)), weights["head.weight"], weights["head.bias"])

    def adapted(self, support, steps, constant=False):
        """The weights after 0, 1, ... steps."""
        weights = {
            name: leaf for name, leaf in self.meta.items() if not (self.stacked and name.startswith("norm"))
        }
        found = [weights]
        for step in range(steps):
            loss = F.cross_entropy(self.predict(weights, step, support.x), support.y)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=not constant)
            weights = {
                name: leaf - self.rate(name, step) * gradient
                for (name, leaf), gradient in zip(weights.items(), gradients, strict=True)
            }
            found.append(weights)
        return found

    def rate(self, name, step):
        if not isinstance(self.rates, dict):
            return self.rates
        return self.rates[name][min(step, len(self.rates[name]) - 1)]

    def losses(self, task, steps=STEPS, constant=False):
        """Query losses after 1, 2, ... steps."""
        found = self.adapted(task.support, steps, constant)
        return [
            F.cross_entropy(self.predict(found[k], k, task.query.x), task.query.y)
            for k in range(1, steps + 1)
        ]


def reference_of(learner, params, **options):
    def leaf(tensor):
        return tensor.data.clone().requires_grad_()

    learned = learner.learned_rates
    theta = {name: leaf(tensor) for name, tensor in (params["params"] if learned else params).items()}
    rates = {name: leaf(tensor) for name, tensor in params["rates"].items()} if learned else learner.inner_lr
    return Reference(theta, rates, learner.per_step_norm, **options)


@pytest.mark.parametrize(
    ("switches", "iteration", "weights", "constant"),
    [
        (OFF, 0, [0, 0, 1], False),
        (OFF | {"learned_rates": True}, 0, [0, 0, 1], False),
        (OFF | {"per_step_norm": True}, 0, [0, 0, 1], False),
        (OFF | {"msl_iterations": 8}, 0, [1 / 3, 1 / 3, 1 / 3], False),
        (OFF | {"msl_iterations": 8}, 2, [1 / 4, 1 / 4, 1 / 2], False),
        (OFF | {"msl_iterations": 8}, 8, [0, 0, 1], False),
        (OFF | {"first_order_iterations": 3}, 2, [0, 0, 1], True),
        (OFF | {"first_order_iterations": 3}, 3, [0, 0, 1], False),
        (ON, 0, [1 / 3, 1 / 3, 1 / 3], True),
        (ON, 4, [1 / 6, 1 / 6, 2 / 3], False),
        (ON, 9, [0, 0, 1], False),
    ],
)
def test_meta_gradient_matches_torch(switches, iteration, weights, constant):
    learner = MAMLPlusPlus(small_model(), inner_lr=0.2, inner_steps=STEPS, **switches)
    params, tasks = random_meta_parameters(learner), random_tasks()
    found = meta_gradient(learner, params, tasks, iteration=iteration)

    reference = reference_of(learner, params)
    losses = [reference.losses(task, constant=constant) for task in tasks]
    totals = [sum(w * loss for w, loss in zip(weights, of_task, strict=True)) for of_task in losses]
    (sum(totals) / len(totals)).backward()

    theirs = {"params": reference.meta, "rates": reference.rates}
    ours = found.gradient if learner.learned_rates else {"params": found.gradient}
    for branch, gradients in ours.items():
        for name, gradient in gradients.items():
            expected = theirs[branch][name].grad
            expected = torch.zeros_like(gradient.data) if expected is None else expected
            torch.testing.assert_close(gradient.data, expected, rtol=1e-9, atol=1e-12, msg=f"{branch}.{name}")
    torch.testing.assert_close(found.loss, torch.stack([of_task[-1] for of_task in losses]).detach())
    if learner.msl_iterations:
        torch.testing.assert_close(found.metrics["multi_step_loss"], torch.stack(totals).detach())
    else:
        assert not found.metrics


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("options", [{}, {"inner_clip": 0.5}, {"adapt": "head.*"}, {"first_order": True}])
def test_with_every_part_off_it_is_maml_bit_for_bit(steps, options):
    model, tasks = Conv4(WAYS, size=8, hidden=8, blocks=BLOCKS), random_tasks(3, torch.float32)
    plain = MAML(model, inner_lr=0.3, inner_steps=steps, **options)
    learner = MAMLPlusPlus(model, inner_lr=0.3, inner_steps=steps, **OFF, **options)
    params = plain.init(seed=4)
    ours, theirs = (meta_gradient(one, one.init(seed=4), tasks, iteration=7) for one in (learner, plain))
    assert list(ours.gradient) == list(params)
    assert all(torch.equal(ours.gradient[name].data, theirs.gradient[name].data) for name in params)
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.score, theirs.score)
    x, support = tasks.query.x[0], tasks[0].support
    at = Step(inner_steps=2)
    assert torch.equal(learner.adapt(params, support, at)(x).data, plain.adapt(params, support, at)(x).data)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_are_the_authors(steps):
    """get_per_step_loss_importance_vector of their code, by epochs of 500 iterations, 10 epochs in all."""
    epochs = 10
    for epoch in range(epochs):
        fall, floor = 1 / steps / epochs, 0.03 / steps
        expected = [1 / steps] * steps
        for i in range(steps - 1):
            expected[i] = max(expected[i] - epoch * fall, floor)
        expected[-1] = min(expected[-1] + epoch * (steps - 1) * fall, 1 - (steps - 1) * floor)
        found = multi_step_weights(500 * epoch / 5000, steps)
        assert found == pytest.approx(expected, rel=1e-12)
        assert sum(found) == pytest.approx(1, rel=1e-12)
    assert multi_step_weights(1.0, 5) == pytest.approx([0.006] * 4 + [0.976])


def test_running_statistics_follow_every_inner_step_and_normalise_in_evaluation():
    learner = MAMLPlusPlus(
        small_model(), inner_lr=0.2, inner_steps=STEPS, running_statistics=True, momentum=0.3
    )
    params, tasks = random_meta_parameters(learner), random_tasks(1)
    state = learner.init_state(params)
    found = meta_gradient(learner, params, tasks, state=state)

    seen = {}
    reference_of(learner, params, seen=seen).losses(
        tasks[0]
    )  # a query pass after every step: the loss has many
    for layer in ("norm0", "norm1"):
        assert found.state["mean"][layer].shape == (STEPS + 1, 4)
        for taken in range(STEPS + 1):
            # Support, query, or both; after the last step there is no support pass.
            batches = seen[taken, layer]
            assert len(batches) == (1 if taken in (0, STEPS) else 2)
            mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
            variance = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
            torch.testing.assert_close(found.state["mean"][layer][taken], 0.3 * mean)
            torch.testing.assert_close(found.state["variance"][layer][taken], 0.7 + 0.3 * variance)

    predictor = learner.adapt(params, tasks[0].support, Step(state=found.state))
    reference = reference_of(learner, params, running=found.state)
    for taken, weights in enumerate(reference.adapted(tasks[0].support, STEPS)):
        expected = reference.predict(weights, taken, tasks[0].query.x)
        torch.testing.assert_close(predictor.trajectory[taken](tasks[0].query.x).data, expected.detach())
    torch.testing.assert_close(predictor(tasks[0].query.x).data, expected.detach())


def test_more_steps_in_evaluation_go_on_at_the_last_rates_and_sets():
    learner = MAMLPlusPlus(small_model(), inner_lr=0.2, inner_steps=2)
    params, task = random_meta_parameters(learner), random_tasks(1)[0]
    trajectory = learner.adapt(params, task.support, Step(inner_steps=4)).trajectory
    reference = reference_of(learner, params)
    for taken, weights in enumerate(reference.adapted(task.support, 4)):
        expected = reference.predict(weights, taken, task.query.x).detach()
        torch.testing.assert_close(trajectory[taken](task.query.x).data, expected)


def test_meta_parameters_begin_as_the_models_with_a_set_and_a_rate_a_step():
    learner = MAMLPlusPlus(small_model(), inner_lr=0.1, inner_steps=STEPS)
    params, plain = learner.init(seed=2), learner.model.init(seed=2)
    assert list(params["rates"]) == [name for name in plain if not name.startswith("norm")]
    for name, leaf in params["params"].items():
        expected = plain[name].data.expand(STEPS + 1, -1) if name.startswith("norm") else plain[name].data
        assert torch.equal(leaf.data, expected)
    assert all(torch.equal(rate.data, torch.full((STEPS,), 0.1)) for rate in params["rates"].values())
    alone = MAMLPlusPlus(small_model(), **OFF).init(seed=2)
    assert all(torch.equal(alone[name].data, plain[name].data) for name in plain)


def test_a_model_without_norms_has_none_a_step_and_one_that_hides_them_is_asked_for_a_pattern():
    mlp = MAMLPlusPlus(neo.nn.MLP(4, 3, 2), inner_steps=2)
    assert all(rate.shape == (2,) for rate in mlp.init(seed=0)["rates"].values())
    with pytest.raises(ValueError, match=r"algorithm\.norm, 'bn\*' matches no parameter"):
        MAMLPlusPlus(neo.nn.MLP(4, 3, 2), norm="bn*").init(seed=0)
    hidden = neo.nn.Sequential(
        [("first", neo.nn.Linear(4, 3)), ("layer", neo.nn.LayerNorm(3)), ("head", neo.nn.Linear(3, 2))]
    )
    with pytest.raises(
        ValueError, match=r"algorithm\.norm, 'norm\*' matches no parameter.*per_step_norm=false"
    ):
        MAMLPlusPlus(hidden).init(seed=0)
    named = MAMLPlusPlus(hidden, norm="layer.*", inner_steps=2).init(seed=0)
    assert named["params"]["layer.weight"].shape == (3, 3)
    assert "layer.weight" not in named["rates"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": 0}, "inner_steps must be 1 or more, got 0"),
        ({"inner_lr": 0.0}, "inner_lr must be a finite number greater than 0, got 0.0"),
        ({"msl_iterations": -1}, "msl_iterations must be an integer of 0 or more, got -1"),
        ({"first_order_iterations": 0.5}, "first_order_iterations must be an integer of 0 or more"),
        ({"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
        ({"first_order": True, "first_order_iterations": 5}, "leave one out"),
        ({"inner_optimizer": neo.optim.adam(0.1)}, "leave inner_optimizer out, or set learned_rates=False"),
        ({"norm": []}, "norm=.* must be a pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=f"MAMLPlusPlus: .*{message}"):
        MAMLPlusPlus(small_model(), **options)


def test_running_statistics_of_a_model_without_visible_norms_are_refused():
    with pytest.raises(ValueError, match="follows the batch norms of a sequence of layers"):
        MAMLPlusPlus(neo.nn.MLP(4, 3, 2), running_statistics=True)


def test_it_evaluates_step_by_step_and_on_the_fused_kernels():
    model = Conv4(WAYS, size=8, hidden=8, blocks=BLOCKS)
    learner = MAMLPlusPlus(model, inner_steps=2, problem=Classification("shots"))
    results = evaluate(learner, learner.init(seed=0), Float32(), 4, record=True, inner_steps=3)
    assert results.record.losses.shape == (4, 4)


class Float32(Tasks):
    def sample(self, iteration, slots):
        return pytree.tree_map(
            lambda column: column.float() if column.is_floating_point() else column,
            super().sample(iteration, slots),
        )
