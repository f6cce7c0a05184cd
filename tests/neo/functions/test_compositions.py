"""Every Policy of the library that names a composition, held to it: values, and gradients to the third order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import neo
from neo import kernels
from neo.autograd import Policy, check_composition
from neo.functions import batch_normalization as bn
from neo.functions import blocks, losses
from neo.kernels import block as block_kernels
from tests.neo.functions.fused_samples import ON_OWN_KERNELS, ON_TORCH, composed_samples


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_policy_with_a_composition_has_samples_here() -> None:
    named = {
        policy
        for policy in subclasses(Policy)
        if policy.composition is not None and policy.__module__.startswith("neo.")
    }
    assert named == {*ON_TORCH, *ON_OWN_KERNELS}


def test_a_rule_for_torch_tensors_alone_names_its_composition() -> None:
    for policy in subclasses(Policy):
        if policy.once_differentiable and policy.__module__.startswith("neo."):
            assert policy.composition is not None, policy


def check(policy: type[Policy]) -> None:
    for args in composed_samples()[policy]():
        check_composition(policy, args)


@pytest.mark.parametrize("policy", composed_samples(), ids=lambda policy: policy.__name__)
def test_policy_equals_its_composition_to_third_order(policy: type[Policy]) -> None:
    check(policy)


# --- planted errors -------------------------------------------------------------------------------------------------


def scaled(policy: type[Policy], which: int) -> Callable[..., Any]:
    """The policy's backward with one of its gradients a millionth too large."""
    right = policy.backward

    def backward(self: Any, *bars: Any) -> Any:
        gradients = list(right(self, *bars))
        gradients[which] = gradients[which] * (1 + 1e-6)
        return tuple(gradients)

    return backward


@pytest.mark.parametrize(
    ("policy", "planted", "which", "order"),
    [
        (bn.BatchNorm, bn.BatchNorm, 1, 1),
        (bn.BatchNorm, bn.BatchNormGradient, 1, 2),
        (losses.CrossEntropy, losses.CrossEntropyGradient, 1, 2),
    ],
    ids=["batch norm", "batch norm's gradient", "cross-entropy's gradient"],
)
def test_a_planted_wrong_rule_is_found(policy, planted, which, order, monkeypatch) -> None:
    monkeypatch.setattr(planted, "backward", scaled(planted, which))
    with pytest.raises(neo.GradcheckError, match=f"{policy.__name__}: order {order}"):
        check(policy)


@pytest.mark.skipif(not kernels.available(), reason="built without Neo's own kernels")
def test_a_planted_wrong_kernel_is_found(monkeypatch) -> None:
    right = block_kernels.double_backward

    def wrong(*args: Any) -> Any:
        y_bar_out, *rest = right(*args)
        return y_bar_out * (1 + 1e-6), *rest

    monkeypatch.setattr(block_kernels, "double_backward", wrong)
    with pytest.raises(neo.GradcheckError, match=r"ConvNormReLUPool: order 2"):
        check(blocks.ConvNormReLUPool)
