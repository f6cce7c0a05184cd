"""Rule 6 for Neo's own Policies: a gradient that nobody asks for is not computed."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.autograd._function import Function
from neo.functions import arithmetic, convolution, linalg, registry
from tests.neo.functions.orders import scalar
from tests.neo.functions.samples import SAMPLES


def normal(*shape: int) -> neo.LiteTensor:
    return neo.LiteTensor(
        torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs() + 0.5
    )


# What to call, on which tensors; the Policies it goes through are found in these modules.
CALLS = {
    "mul": (lambda x, y: x * y, normal(3), normal(3)),
    "sub": (lambda x, y: x - y, normal(3), normal(3)),
    "div": (lambda x, y: x / y, normal(3), normal(3)),
    "pow": (lambda x, y: x**y, normal(3), normal(3)),
    "add scaled": (lambda x, y: torch.add(x, y, alpha=3), normal(3), normal(3)),
    "matmul": (lambda x, y: x @ y, normal(2, 3), normal(3, 4)),
    "linear": (lambda x, w, b: F.linear(x, w, b), normal(2, 3), normal(4, 3), normal(4)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b), normal(1, 2, 4, 4), normal(3, 2, 2, 2), normal(3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_own_policy_computes_only_the_gradients_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, *tensors = CALLS[name]
    seen: list[tuple[str, int]] = []

    def watched(cls: type, backward):
        def wrapper(self, *cotangents):
            result = backward(self, *cotangents)
            gradients = result if isinstance(result, tuple) else (result,)
            for i, (gradient, needed) in enumerate(zip(gradients, self.ctx.needs_grad, strict=True)):
                # The cotangent itself, handed on, is no work.
                free = gradient is None or any(gradient is cotangent for cotangent in cotangents)
                assert needed or free, f"{cls.__name__} computed gradient {i}, which nobody asked for"
                seen.append((cls.__name__, i))
            return result

        return wrapper

    policies = {
        value.policy
        for module in (arithmetic, linalg, convolution)
        for value in vars(module).values()
        if isinstance(value, Function)
    }
    for policy in policies:
        monkeypatch.setattr(policy, "backward", watched(policy, policy.backward))
    for position in range(len(tensors)):
        neo.grad(lambda *args: call(*args).sum(), argnums=position)(*tensors)
    assert any(i >= 1 for _, i in seen)  # a Policy of two inputs or more was watched


def library() -> set[type]:
    """The Policies of all of neo.functions."""
    modules = [module for name, module in sys.modules.items() if name.startswith("neo.functions.")]
    functions = [
        value for module in modules for value in vars(module).values() if isinstance(value, Function)
    ]
    answered = [handler for handler in registry._handlers.values() if isinstance(handler, Function)]
    return {function.policy for function in (*functions, *answered)}


SEVERAL = [case for case in SAMPLES if len(case.args) > 1]


@pytest.fixture
def idle_work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What any Policy of the library computes for nobody, as it happens."""
    found: list[str] = []

    def watched(cls: type, rule):
        def backward(self, *cotangents):
            result = rule(self, *cotangents)
            gradients = result if isinstance(result, tuple) else (result,)
            needs = self.ctx.needs_grad
            for i, (gradient, needed) in enumerate(zip(gradients, needs, strict=False)):
                free = gradient is None or any(gradient is cotangent for cotangent in cotangents)
                if any(needs) and not needed and not free:
                    found.append(f"{cls.__name__}, gradient {i}")
            return result

        return backward

    for policy in library():
        monkeypatch.setattr(policy, "backward", watched(policy, policy.backward))
    return found


# One pass makes all gradients of a batch norm, the fused net's included.
TOGETHER = {"BatchNorm", "BatchNormGradient"}


def test_no_policy_of_the_library_computes_a_gradient_for_nobody(idle_work: list[str]) -> None:
    for case in SEVERAL:
        for position in range(len(case.args)):
            neo.grad(lambda *xs, c=case: scalar(c.fn(*xs)), argnums=position)(*map(neo.LiteTensor, case.args))
    assert {name for name in idle_work if name.partition(",")[0] not in TOGETHER} == set()
