"""Rule 6 for Neo's own Policies: a gradient that nobody asks for is not computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.autograd._function import Function
from neo.functions import arithmetic, convolution, linalg


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
