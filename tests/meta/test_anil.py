"""ANIL: what does not match the pattern stays as it is, and the meta-gradient knows it."""

from __future__ import annotations

import pytest
import torch

import neo
from meta import ANIL, MAML, Step, meta_gradient
from tests.meta.quadratic import BODY, SIZE, Tasks, flat
from tests.meta.test_maml import random_tasks

ALPHA = 0.07


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("pattern", "adapting"), [("head.*", range(BODY, SIZE)), ("body.*", range(BODY))])
def test_meta_gradient_matches_closed_form_on_quadratics(pattern, adapting, steps, first_order):
    """θ′ = c + (I − α P A)ᴷ (θ − c), where P keeps the entries that adapt; the gradient is that matrix's transpose
    times (θ′ − q), or θ′ − q alone at first order.
    """
    problem = Tasks()
    learner = ANIL(
        problem.model,
        adapt=pattern,
        inner_lr=ALPHA,
        inner_steps=steps,
        first_order=first_order,
        problem=problem.problem,
    )
    result = meta_gradient(learner, problem.params(), problem.batch())
    keep = torch.zeros(SIZE, dtype=torch.float64)
    keep[list(adapting)] = 1
    identity = torch.eye(SIZE, dtype=torch.float64)
    way = torch.linalg.matrix_power(identity - ALPHA * keep[:, None] * problem.A, steps)
    expected, losses = torch.zeros(SIZE, dtype=torch.float64), []
    for c, q in problem.tasks():
        residual = c + way @ (problem.theta() - c) - q
        expected += (residual if first_order else way.T @ residual) / 2
        losses.append(0.5 * (residual**2).sum())
    torch.testing.assert_close(flat(result.gradient), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.loss, torch.stack(losses), rtol=1e-12, atol=1e-12)


def test_only_the_head_of_a_network_adapts():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0), random_tasks(3, 1, torch.float32)
    adapted = ANIL(model, inner_steps=2).adapt(params, batch[0].support, Step()).params
    assert list(adapted) == list(params)
    for name, value in params.items():
        assert torch.equal(adapted[name].data, value.data) != name.startswith("head."), name


def test_pattern_that_matches_all_is_maml():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0, dtype=torch.float64), random_tasks(3, 2, torch.float64)
    ours, maml = (
        meta_gradient(learner, params, batch).gradient for learner in (ANIL(model, adapt="*"), MAML(model))
    )
    for name in params:
        assert torch.equal(ours[name].data, maml[name].data), name


def test_several_patterns_adapt_what_any_of_them_matches():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0), random_tasks(3, 1, torch.float32)
    adapted = ANIL(model, adapt=["head.bias", "norm?.bias"]).adapt(params, batch[0].support, Step()).params
    changed = {name for name in params if not torch.equal(adapted[name].data, params[name].data)}
    assert changed <= {"head.bias", "norm0.bias", "norm1.bias", "norm2.bias", "norm3.bias"}
    assert {"head.bias", "norm3.bias"} <= changed


@pytest.mark.parametrize(
    ("adapt", "sentence"),
    [
        ("haed.*", r"'haed\.\*' matches no parameter \(nearest: head\.weight, head\.bias\)"),
        (["head.*", "nrom0.bias"], r"'nrom0\.bias' matches no parameter \(nearest: norm0\.bias"),
        (["conv*.weight", "head"], r"'head' matches no parameter \(nearest: head\.weight, head\.bias\)"),
        (
            ["x", "head.bias", "Head.*"],
            r"'x' matches no parameter; 'Head\.\*' matches no parameter \(nearest",
        ),
        (["head.*", ""], r"'' matches no parameter"),
    ],
)
@pytest.mark.parametrize("where", ["adapt", "meta_gradient"])
def test_every_pattern_must_match_a_parameter(where, adapt, sentence):
    """One that is misspelt beside another that matches would leave parameters as they are without a word."""
    model = neo.nn.Conv4(ways=3, hidden=4)
    learner, batch = ANIL(model, adapt=adapt), random_tasks(3, 1, torch.float32)
    calls = {
        "adapt": lambda: learner.adapt(model.init(seed=0), batch[0].support, Step()),
        "meta_gradient": lambda: meta_gradient(learner, model.init(seed=0), batch),
    }
    with pytest.raises(ValueError, match=sentence + r".*The model's parameters: conv0\.weight.*head\.bias\."):
        calls[where]()


@pytest.mark.parametrize("adapt", [[], None, 3, ["head.*", 1], {"head.*": 1}, b"head.*"])
def test_what_is_no_pattern_is_refused(adapt):
    with pytest.raises(ValueError, match=r"ANIL: adapt=.* must be a pattern of parameter names, or a list"):
        ANIL(neo.nn.Conv4(ways=3, hidden=4), adapt=adapt)
