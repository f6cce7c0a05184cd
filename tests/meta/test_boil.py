"""BOIL: what is frozen stays as it is in the inner loop, and learns in the outer one."""

from __future__ import annotations

import pytest
import torch

import neo
from meta import ANIL, BOIL, MAML, MetaSGD, Step, meta_gradient
from tests.meta.quadratic import BODY, SIZE, Tasks, flat
from tests.meta.test_maml import random_tasks

ALPHA = 0.07


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("frozen", "adapting"), [("head.*", range(BODY)), ("body.*", range(BODY, SIZE))])
def test_meta_gradient_matches_closed_form_on_quadratics(frozen, adapting, steps, first_order):
    """θ′ = c + (I − α P A)ᴷ (θ − c), P keeping what adapts; the gradient is that matrix transposed times (θ′ − q)."""
    tasks = Tasks()
    learner = BOIL(
        tasks.model,
        freeze=frozen,
        inner_lr=ALPHA,
        inner_steps=steps,
        first_order=first_order,
        problem=tasks.problem,
    )
    keep = torch.zeros(SIZE, dtype=torch.float64)
    keep[list(adapting)] = 1
    way = torch.linalg.matrix_power(
        torch.eye(SIZE, dtype=torch.float64) - ALPHA * keep[:, None] * tasks.A, steps
    )
    expected = torch.zeros(SIZE, dtype=torch.float64)
    for c, q in tasks.tasks():
        residual = c + way @ (tasks.theta() - c) - q
        expected += (residual if first_order else way.T @ residual) / 2
    found = meta_gradient(learner, tasks.params(), tasks.batch())
    torch.testing.assert_close(flat(found.gradient), expected, rtol=1e-12, atol=1e-12)


def test_head_stays_and_body_adapts():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0), random_tasks(3, 1, torch.float32)
    adapted = BOIL(model, inner_steps=2).adapt(params, batch[0].support, Step()).params
    assert list(adapted) == list(params)
    stayed = {name for name in params if torch.equal(adapted[name].data, params[name].data)}
    assert {name for name in stayed if not name.startswith("conv")} == {"head.weight", "head.bias"}
    gradient = meta_gradient(BOIL(model), params, batch).gradient
    assert float(gradient["head.weight"].data.abs().max()) > 0


def test_nothing_frozen_is_maml_and_freezing_narrows_what_adapts():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0, dtype=torch.float64), random_tasks(3, 2, torch.float64)

    def same(one, other):
        first, second = (meta_gradient(learner, params, batch).gradient for learner in (one, other))
        return all(torch.equal(first[name].data, second[name].data) for name in params)

    assert same(BOIL(model, freeze=[]), MAML(model))
    assert same(BOIL(model, adapt=["norm*", "head.*"], freeze="norm*"), ANIL(model))
    assert not same(BOIL(model), MAML(model))


@pytest.mark.parametrize(
    ("freeze", "sentence"),
    [
        (
            "haed.*",
            r"in algorithm.freeze, 'haed\.\*' matches no parameter \(nearest: head\.weight, head\.bias\)",
        ),
        (["head.*", "*"], r"algorithm.freeze=\['head\.\*', '\*'\] matches every parameter that would adapt"),
    ],
)
def test_pattern_that_freezes_nothing_or_all_is_refused(freeze, sentence):
    model = neo.nn.Conv4(ways=3, hidden=4)
    with pytest.raises(ValueError, match=sentence):
        meta_gradient(BOIL(model, freeze=freeze), model.init(seed=0), random_tasks(3, 1, torch.float32))


@pytest.mark.parametrize("freeze", [None, 3, ["head.*", 1]])
def test_what_is_no_pattern_is_refused(freeze):
    with pytest.raises(ValueError, match=r"BOIL: freeze=.* must be a pattern of parameter names"):
        BOIL(neo.nn.Conv4(ways=3, hidden=4), freeze=freeze)


def test_rates_of_every_parameter_leave_none_to_freeze():
    with pytest.raises(ValueError, match=r"MetaSGD: .*leave freeze out"):
        MetaSGD(neo.nn.MLP(1, 1), freeze="linear0.*")
