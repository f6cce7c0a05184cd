"""Optimisers unrolled through modules, as users of `higher` do it: values beside torch.optim, gradients beside torch's
double backward of the same formulas, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import neo
from tests.peers.torch_optimizers import FORMULAS

STEPS = 3
TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}


class Twice(nn.Module):
    """One linear map under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(4, 2))
        self.other = nn.Sequential(self.one[0])

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.one(x)) + self.other(x)


class PartlyUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Any) -> Any:
        return x @ self.used


class ReturningLast(nn.Module):
    """A recurrent layer, or a cell step by step, down to its last output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        x = torch.stack([x, x * 0.5, -x])  # (time, batch, features)
        if isinstance(self.layer, nn.RNNBase):
            return self.layer(x)[0][-1]
        state = None
        for step in x:
            state = self.layer(step, state)
        return state[0] if isinstance(state, tuple) else state


def shared_in_sequence() -> nn.Module:
    linear = nn.Linear(4, 3)
    return nn.Sequential(linear, nn.Tanh(), nn.Linear(3, 4), nn.Sigmoid(), linear, nn.Tanh(), nn.Linear(3, 2))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 2)
    ),
    "shared": Twice,
    "shared in sequence": shared_in_sequence,
    "partly used": PartlyUsed,
    "batch norm": lambda: nn.Sequential(
        nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)
    ),
    "rnn": lambda: ReturningLast(nn.RNN(4, 3, 2)),
    "lstm": lambda: ReturningLast(nn.LSTM(4, 3, 2)),
    "gru": lambda: ReturningLast(nn.GRU(4, 3, 2)),
    "rnn cell": lambda: ReturningLast(nn.RNNCell(4, 3)),
    "lstm cell": lambda: ReturningLast(nn.LSTMCell(4, 3)),
    "gru cell": lambda: ReturningLast(nn.GRUCell(4, 3)),
}


class Rule(NamedTuple):
    ours: Callable[..., neo.optim.Optimizer]
    formula: str
    theirs: type[torch.optim.Optimizer]
    options: dict[str, Any] = {}  # noqa: RUF012 (never written to)
    formula_options: dict[str, Any] = {}  # noqa: RUF012


RULES = {
    "sgd": Rule(neo.optim.sgd, "sgd", torch.optim.SGD),
    "sgd decay": Rule(neo.optim.sgd, "sgd", torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": Rule(neo.optim.momentum, "sgd", torch.optim.SGD, {"momentum": 0.3}),
    "nesterov": Rule(neo.optim.nesterov, "sgd", torch.optim.SGD, {"momentum": 0.3}, {"nesterov": True}),
    "adam": Rule(neo.optim.adam, "adam", torch.optim.Adam),
    "adam decay": Rule(neo.optim.adam, "adam", torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.9)}),
    "adamw": Rule(neo.optim.adamw, "adam", torch.optim.AdamW, {"weight_decay": 0.1}, {"decoupled": True}),
    "adagrad": Rule(
        neo.optim.adagrad, "adagrad", torch.optim.Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1}
    ),
    "rmsprop": Rule(neo.optim.rmsprop, "rmsprop", torch.optim.RMSprop, {"momentum": 0.1}),
    "rmsprop centred": Rule(
        neo.optim.rmsprop, "rmsprop", torch.optim.RMSprop, {"centered": True, "alpha": 0.8}
    ),
}
ELSEWHERE = {"nesterov": {"nesterov": True}}  # what torch.optim calls by an option


def loss_of(out: Any) -> Any:
    return (out**2).sum() + out.sum()


def batches(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(STEPS + 1, 6, 4, generator=generator, dtype=torch.float64))


def module_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().double()


def by_torch(
    module: nn.Module,
    step: Any,
    first: list[torch.Tensor],
    first_order: bool = False,
    steps: int = STEPS,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The parameters after the steps, and the loss on the last batch there."""
    names = [name for name, _ in module.named_parameters()]
    params, state = first, {}
    for x in batches()[:steps]:
        at = [p.detach().requires_grad_() for p in params] if first_order else params
        loss = loss_of(torch.func.functional_call(module, dict(zip(names, at, strict=True)), (x,)))
        grads = torch.autograd.grad(
            loss, at, create_graph=not first_order, allow_unused=True, materialize_grads=True
        )
        params, state = step(params, grads, state)
    x = batches()[-1]
    return params, loss_of(torch.func.functional_call(module, dict(zip(names, params, strict=True)), (x,)))


def by_neo(
    model: Any, optimizer: neo.optim.Optimizer, params: Any, first_order: bool = False
) -> tuple[Any, Any]:
    state = optimizer.init(params)
    for x in batches()[:STEPS]:
        at = neo.stop_gradient(params) if first_order else params
        gradient = neo.grad(lambda params, x=x: loss_of(model(params, x)), argnums=0)(at)
        params, state = optimizer.step(params, gradient, state)
    return params, loss_of(model(params, batches()[-1]))


EVERY_RULE = [(name, rule) for name in ("mlp", "shared", "partly used") for rule in RULES]
EVERY_MODEL = [(name, "adam") for name in MODELS if (name, "adam") not in EVERY_RULE]


@pytest.mark.parametrize(("name", "rule"), [*EVERY_RULE, *EVERY_MODEL])
def test_gradient_through_an_unrolled_optimizer_is_torchs(name, rule):
    check(name, rule, first_order=False)


@pytest.mark.parametrize("rule", ["sgd", "nesterov", "adam", "rmsprop centred"])
@pytest.mark.parametrize("name", ["mlp", "shared in sequence"])
def test_first_order_gradient_through_an_unrolled_optimizer_is_torchs(name, rule):
    check(name, rule, first_order=True)


def check(name: str, rule: str, first_order: bool) -> None:
    module, plain = module_of(name), module_of(name)
    ours, formula, theirs, options, formula_options = RULES[rule]
    model, params = neo.nn.from_torch(module)
    value, gradient = neo.value_and_grad(
        lambda params: by_neo(model, ours(0.1, **options), params, first_order)[1], argnums=0
    )(params)
    after = by_neo(model, ours(0.1, **options), params)[0]

    first = [p.detach().clone().requires_grad_() for p in module.parameters()]
    step = FORMULAS[formula](0.1, **options, **formula_options)
    moved, loss = by_torch(module, step, first, first_order)
    expected = torch.autograd.grad(loss, first, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(value.data, loss.detach(), **TOLERANCE)
    for key, theirs_one in zip(gradient, expected, strict=True):
        torch.testing.assert_close(gradient[key].data, theirs_one, **TOLERANCE)

    optimizer = theirs(plain.parameters(), lr=0.1, **options, **ELSEWHERE.get(rule, {}))  # its own steps
    for x in batches()[:STEPS]:
        optimizer.zero_grad()
        loss_of(plain(x)).backward()
        for p in plain.parameters():
            p.grad = (
                torch.zeros_like(p) if p.grad is None else p.grad
            )  # as decay has it for Neo's zero gradient
        optimizer.step()
    for key, theirs_one, by_formula in zip(after, plain.parameters(), moved, strict=True):
        torch.testing.assert_close(by_formula.detach(), theirs_one.detach(), **TOLERANCE)
        torch.testing.assert_close(after[key].data, theirs_one.detach(), **TOLERANCE)


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_gradient_of_the_optimizers_own_numbers_is_torchs(rule):
    """A learned rate, momentum or pair of betas: what `higher` calls an override."""
    module = module_of("mlp")
    model, params = neo.nn.from_torch(module)
    numbers = {"sgd": (0.1,), "momentum": (0.1, 0.3), "adam": (0.1, 0.8, 0.95)}[rule]

    def ours(*given: Any) -> neo.optim.Optimizer:
        if rule == "adam":
            return neo.optim.adam(given[0], betas=(given[1], given[2]))
        return neo.optim.sgd(given[0]) if rule == "sgd" else neo.optim.momentum(given[0], given[1])

    def formula(*given: Any) -> Any:
        if rule == "adam":
            return FORMULAS["adam"](given[0], betas=(given[1], given[2]))
        return FORMULAS["sgd"](*given)

    given = tuple(neo.LiteTensor(number, dtype=torch.float64) for number in numbers)
    gradients = neo.grad(
        lambda *given: by_neo(model, ours(*given), params)[1], argnums=tuple(range(len(numbers)))
    )(*given)
    theirs = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in numbers]
    first = [p.detach().clone().requires_grad_() for p in module.parameters()]
    expected = torch.autograd.grad(by_torch(module, formula(*theirs), first)[1], theirs)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one.data, other, **TOLERANCE)
        assert float(other.abs()) > 0


def test_rates_of_groups_of_parameters_get_gradients_of_their_own():
    module = module_of("mlp")
    model, params = neo.nn.from_torch(module)
    rates = {"0": 0.2, "2": 0.1, "4": 0.05}  # by layer

    def loss(rates: Any) -> Any:
        return by_neo(model, neo.optim.adam({key: rates[key.split(".")[0]] for key in params}), params)[1]

    gradient = neo.grad(loss, argnums=0)(
        {key: neo.LiteTensor(rate, dtype=torch.float64) for key, rate in rates.items()}
    )
    theirs = {key: torch.tensor(rate, dtype=torch.float64, requires_grad=True) for key, rate in rates.items()}

    def step(params: Any, grads: Any, state: Any) -> Any:
        moved, after = [], {}
        for place, ((key, _), p, g) in enumerate(zip(module.named_parameters(), params, grads, strict=True)):
            one = FORMULAS["adam"](theirs[key.split(".")[0]])
            (p,), after[place] = one([p], [g], state.get(place, {}))
            moved.append(p)
        return moved, after

    first = [p.detach().clone().requires_grad_() for p in module.parameters()]
    expected = torch.autograd.grad(by_torch(module, step, first)[1], list(theirs.values()))
    for one, other in zip(gradient.values(), expected, strict=True):
        torch.testing.assert_close(one.data, other, **TOLERANCE)


def test_unrolling_leaves_the_module_and_the_first_parameters_as_they_were():
    module = module_of("batch norm")
    before = copy.deepcopy(module.state_dict())
    model, params = neo.nn.from_torch(module)
    after, _ = by_neo(model, neo.optim.adam(0.1), params)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(torch.equal(params[name].data, before[name]) for name in params)
    assert not torch.equal(after["0.weight"].data, before["0.weight"])
