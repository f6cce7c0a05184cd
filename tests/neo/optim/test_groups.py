"""Parameter groups, optimisers and schedules that pickle, rates of zero."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import optree
import pytest
import torch

import neo
from neo.optim import adam, adamw, clipped, cosine, grouped, momentum, radam, rprop, sgd, warmup


def number(value: Any) -> neo.LiteTensor:
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


PARAMS = {"body.weight": number([1.0, 2.0]), "head.weight": number([3.0]), "head.bias": number(4.0)}


def loss(params: Any) -> Any:
    return sum(torch.sum(torch.sin(leaf) * leaf) for leaf in optree.tree_leaves(params))


def run(optimizer: Any, params: Any, steps: int = 4) -> tuple[Any, Any]:
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = optimizer.step(params, neo.grad(loss, argnums=0)(params), state)
    return params, state


def test_groups_by_pattern_equal_torchs_param_groups() -> None:
    optimizer = grouped({"head.*": adamw(0.1, weight_decay=0.2), "*": adamw(0.01, (0.5, 0.9))})
    got, state = run(optimizer, PARAMS)
    theirs = {name: p.data.clone().requires_grad_() for name, p in PARAMS.items()}
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["head.weight"], theirs["head.bias"]], "lr": 0.1, "weight_decay": 0.2},
            {"params": [theirs["body.weight"]], "lr": 0.01, "betas": (0.5, 0.9)},
        ]
    )
    for _ in range(4):
        reference.zero_grad()
        loss(theirs).backward()
        reference.step()
    for name, value in got.items():
        torch.testing.assert_close(value.data, theirs[name].detach(), rtol=1e-12, atol=0)
    assert list(got) == list(PARAMS)
    assert set(state["head.*"].mean) == {"head.weight", "head.bias"}


def test_groups_by_labels_are_a_prefix_of_the_tree() -> None:
    params = {"params": {"w": number([1.0, 2.0]), "b": [number(3.0)]}, "rates": number(0.5)}
    optimizer = grouped({"slow": sgd(0.1), "fast": momentum(1.0)}, labels={"params": "slow", "rates": "fast"})
    got, state = run(optimizer, params)
    slow, _ = run(sgd(0.1), params["params"])
    fast, _ = run(momentum(1.0), params["rates"])
    assert torch.equal(got["params"]["w"].data, slow["w"].data)
    assert torch.equal(got["params"]["b"][0].data, slow["b"][0].data)
    assert torch.equal(got["rates"].data, fast.data)
    assert set(state) == {"slow", "fast"}


def test_grouped_steps_are_differentiable_in_the_hyperparameters_of_a_group() -> None:
    def after(theta: Any, rate: Any, decay: Any) -> Any:
        optimizer = grouped({"a": sgd(rate), "*": momentum(0.1, 0.5, weight_decay=decay)})
        return loss(run(optimizer, theta, 2)[0])

    theta = {"a": number([0.3, -1.2]), "b": number(0.7)}
    assert neo.gradcheck(after, (theta, number(0.05), number(0.1)), order=2)


GROUPS: dict[str, tuple[Any, str]] = {
    "no group": (lambda: grouped({}), "at least one group"),
    "no optimiser": (lambda: grouped({"*": 0.1}), r"group '\*' must be an optimiser, got float"),
    "no match": (
        lambda: grouped({"head.*": sgd(0.1)}).init(PARAMS),
        r"no pattern matches 'body\.weight'.*Add '\*'",
    ),
    "empty group": (
        lambda: grouped({"*": sgd(0.1), "tail": sgd(0.1)}).init(PARAMS),
        r"'tail' has no parameter",
    ),
    "unknown label": (
        lambda: grouped({"a": sgd(0.1)}, labels="b").init(PARAMS),
        r"'b' is the label, and no group, of 'body\.weight'",
    ),
    "no prefix": (lambda: grouped({"a": sgd(0.1)}, labels=["a"]).init(PARAMS), "labels are no prefix"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_that_do_not_fit_are_named(name: str) -> None:
    make, message = GROUPS[name]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        make()


# --- pickles and copies ----------------------------------------------------------------------------------------------

MADE = {
    "sgd": sgd(0.1),
    "momentum": momentum(0.1, dampening=0.2),
    "adam": adam(0.1, (0.8, 0.9), amsgrad=True),
    "adamw with a schedule": adamw(warmup(2, cosine(0.1, 10), start=0.5)),
    "radam": radam(),
    "rprop": rprop(),
    "clipped": clipped(adam(0.1), norm=0.5),
    "grouped": grouped({"head.*": clipped(sgd(cosine(0.1, 5)), value=0.1), "*": neo.optim.nesterov(0.1)}),
    "learned rate": sgd(number(0.1)),
    **{name: getattr(neo.optim, name)() for name in ("adadelta", "adamax", "nadam", "asgd")},
    **{name: getattr(neo.optim, name)(0.1) for name in ("rmsprop", "adagrad")},
}


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy"])
@pytest.mark.parametrize("name", MADE)
def test_optimizers_and_their_states_pickle_and_copy(name: str, how: str) -> None:
    work: dict[str, Any] = {
        "pickle": lambda value: pickle.loads(pickle.dumps(value)),
        "deepcopy": copy.deepcopy,
        "copy": copy.copy,
    }
    optimizer = MADE[name]
    again = work[how](optimizer)
    assert isinstance(again, neo.optim.Optimizer)
    expected, state = run(optimizer, PARAMS)
    got, _ = run(again, PARAMS)
    assert all(torch.equal(got[key].data, expected[key].data) for key in PARAMS)
    state = work[how](state)
    more, _ = again.step(expected, expected, state)
    assert more.keys() == PARAMS.keys()


def test_schedules_pickle_and_copy() -> None:
    schedule = warmup(2, cosine(0.1, 10), start=0.5)
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert [again(step) for step in range(12)] == [schedule(step) for step in range(12)]


def test_optimizer_is_shown_as_it_was_made() -> None:
    assert repr(clipped(adam(0.1), norm=1.0)) == "clipped(adam(0.1), norm=1.0)"


# --- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sgd, momentum, adam, neo.optim.adagrad, neo.optim.rmsprop, rprop])
def test_rate_of_zero_leaves_the_parameters_as_they_are(make: Any) -> None:
    if make is rprop:
        with pytest.raises(ValueError, match="lr must be 0 or greater"):
            make(-0.1)
        return
    for rate in (0.0, 0, dict.fromkeys(PARAMS, 0.0)):
        got, _ = run(make(rate), PARAMS)
        assert all(torch.equal(got[name].data, PARAMS[name].data) for name in PARAMS)


@pytest.mark.parametrize("lr", [-0.1, float("nan"), {"a": 0.1, "b": -1}])
def test_rate_below_zero_is_refused(lr: Any) -> None:
    for make in (sgd, adam, rprop, radam):
        with pytest.raises(ValueError, match="lr must be 0 or greater, got"):
            make(lr)


def test_options_that_exclude_each_other_are_refused() -> None:
    for make, message in (
        (lambda: sgd(0.1, dampening=0.5), "of the momentum"),
        (lambda: sgd(0.1, nesterov=True), "of the momentum"),
        (lambda: momentum(0.1, nesterov=True, dampening=0.1), "nesterov has no dampening"),
        (lambda: rprop(cosine(0.1, 5)), "cannot be a schedule"),
        (lambda: rprop(0.1, (1.5, 1.2)), "0 < η₋ < 1 < η₊"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            make()
