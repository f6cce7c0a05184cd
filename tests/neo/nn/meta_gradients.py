"""A two-step second-order MAML meta-gradient of a torch module, by Neo and by torch's double backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo

__all__ = ["assert_meta_gradients_agree", "meta_gradient_by_neo", "meta_gradient_by_torch", "uneven"]

INNER_LR = 0.05
STEPS = 2
TOLERANCE = 1e-7

Loss = Callable[[Any], Any]


def uneven(out: Any) -> Any:
    """The mean of w (v + v²/2) over an output, w uneven; of a tuple, the sum over its tensors."""
    if isinstance(out, tuple | list):
        return sum(uneven(part) for part in out if part is not None)
    line = torch.arange(out.numel(), dtype=torch.float64).mul(2.39996).sin().mul(0.5).add(1.0)
    weights = line.reshape(tuple(out.shape)).to(out.dtype)
    return (weights * (out + out * out * 0.5)).sum() / out.numel()


def meta_gradient_by_neo(
    model: Any, params: Any, support: tuple, query: tuple, loss: Loss = uneven, **options: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """∇_θ L(θ − α ∇L − α ∇L; query), by sessions in a session."""

    def of_support(params: Any) -> Any:
        return loss(model(params, *support, **options))

    def of_query(params: Any) -> Any:
        for _ in range(STEPS):
            gradient = neo.grad(of_support, argnums=0)(params)
            params = {name: params[name] - INNER_LR * gradient[name] for name in params}
        return loss(model(params, *query, **options))

    value, gradient = neo.value_and_grad(of_query, argnums=0)(params)
    return value.item(), {name: g.data for name, g in gradient.items()}


def meta_gradient_by_torch(
    module: torch.nn.Module, support: tuple, query: tuple, loss: Loss = uneven
) -> tuple[Any, dict[str, torch.Tensor]]:
    """The same by torch.autograd, which differentiates its own backward (that of fused attention it cannot)."""
    with sdpa_kernel(SDPBackend.MATH):
        return _meta_gradient_by_torch(module, support, query, loss)


def _meta_gradient_by_torch(
    module: torch.nn.Module, support: tuple, query: tuple, loss: Loss
) -> tuple[Any, dict[str, torch.Tensor]]:
    theta = {name: p for name, p in module.named_parameters() if p.requires_grad}
    params = dict(theta)
    call = torch.func.functional_call
    for _ in range(STEPS):
        value = loss(call(module, params, support))
        gradients = torch.autograd.grad(
            value, list(params.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        params = {name: p - INNER_LR * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    value = loss(call(module, params, query))
    gradients = torch.autograd.grad(value, list(theta.values()), allow_unused=True, materialize_grads=True)
    return value.item(), dict(zip(theta, gradients, strict=True))


def assert_meta_gradients_agree(
    module: torch.nn.Module,
    support: tuple,
    query: tuple,
    loss: Loss = uneven,
    buffers: str | None = None,
    examiner: torch.nn.Module | None = None,
) -> None:
    """examiner: a module with the same parameters that torch differentiates in place of `module`.

    Equal to TOLERANCE of each tensor's largest entry (or of a thousandth of the largest of all, for those that are
    zero but for rounding, as a bias before a batch norm)."""
    model, params = neo.nn.from_torch(module, buffers=buffers)
    found, ours = meta_gradient_by_neo(model, params, support, query, loss)
    expected, theirs = meta_gradient_by_torch(examiner or module, support, query, loss)
    assert abs(found - expected) <= TOLERANCE * abs(expected)
    assert list(ours) == list(theirs)
    largest = max(float(g.abs().max()) for g in theirs.values())
    assert largest > 0
    for name, gradient in theirs.items():
        assert ours[name].shape == gradient.shape
        assert ours[name].dtype == gradient.dtype
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        apart = float((ours[name] - gradient).abs().max())
        assert apart <= TOLERANCE * scale, f"{name}: {apart / scale:.3g} of its largest entry {scale:.3g}"
