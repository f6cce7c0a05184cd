"""Forward mode held to reverse mode on one function: tangents, and the two mixed second orders.

With random u of the arguments and v of the outputs, J the Jacobian and s a scalar of the outputs (orders.scalar):

    forward                 ⟨v, J u⟩ = ⟨Jᵀ v, u⟩
    forward over reverse    ⟨p, (∇s)˙ along u⟩ = ⟨(∇s)'s pullback of p, u⟩ for a random p
    reverse over forward    ∇⟨v, J u⟩ = ∇⟨Jᵀ v, u⟩, both by reverse mode
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from neo import LiteTensor
from neo.autograd import session
from tests.neo.functions.orders import scalar, tensors

__all__ = ["compare"]

TOLERANCE = 1e-9  # of the terms of a sum


def compare(call: Callable[..., Any], args: Sequence[torch.Tensor], second: bool) -> list[str]:
    """Gives what agrees: "forward", and with `second` "forward over reverse" and "reverse over forward".

    What reverse mode gives NaN or ∞ for, which there is nothing to hold to by, is not among them.
    Raises: AssertionError naming what does not agree.
    """
    xs = tuple(LiteTensor(x) for x in args)
    generator = torch.Generator().manual_seed(7)

    def draw(values: Sequence[Any]) -> list[torch.Tensor]:
        return [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype) for v in values]

    def outputs(*given: Any) -> list[Any]:
        return [
            value if isinstance(value, LiteTensor) else LiteTensor(value) for value in tensors(call(*given))
        ]

    u = draw(xs)
    out, pullback = session.vjp(outputs, *xs)
    v = draw(out)
    _, moved = session.jvp(outputs, xs, tuple(u))
    coarsest = max([torch.finfo(value.dtype).eps for value in (*xs, *out)], default=0.0)
    tolerance = TOLERANCE if coarsest < 1e-12 else min(256 * coarsest, 0.05)
    agreed = []
    if _same_sum("forward", _terms(moved, v), _terms(pullback(v), u), tolerance):
        agreed.append("forward")
    if not second:
        return agreed

    places = tuple(range(len(xs)))

    def gradient(*given: Any) -> Any:
        return session.grad(lambda *a: scalar(outputs(*a)), argnums=places)(*given)

    found, pullback = session.vjp(gradient, *xs)
    p = draw(found)
    _, moved = session.jvp(gradient, xs, tuple(u))
    if _same_sum("forward over reverse", _terms(moved, p), _terms(pullback(tuple(p)), u), tolerance):
        agreed.append("forward over reverse")

    def ahead(*given: Any) -> Any:
        return _total(session.jvp(outputs, given, tuple(u))[1], v)

    def back(*given: Any) -> Any:
        return _total(session.vjp(outputs, *given)[1](v), u)

    got, expected = (session.grad(fn, argnums=places)(*xs) for fn in (ahead, back))
    if all(torch.isfinite(b.data).all() for b in expected):
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            _same_entries(f"reverse over forward, input {i}", a.data, b.data, tolerance)
        agreed.append("reverse over forward")
    return agreed


def _terms(values: Any, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    parts = [
        (value.data.double() * weight.double()).reshape(-1)
        for value, weight in zip(values, weights, strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _total(values: Any, weights: Sequence[torch.Tensor]) -> Any:
    return sum(
        ((value * weight).sum().to(torch.float64) for value, weight in zip(values, weights, strict=True)), 0.0
    )


def _same_sum(what: str, got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether both sums agree, to a part of the size of their terms; False where reverse mode gives NaN or ∞.

    Raises: AssertionError where they do not agree.
    """
    if not torch.isfinite(expected).all():
        return False
    a, b = float(got.sum()), float(expected.sum())
    size = float(got.abs().sum() + expected.abs().sum())
    assert abs(a - b) <= tolerance * (size + 1e-2), f"{what}: {a!r}, expected {b!r} by reverse mode"
    return True


def _same_entries(what: str, got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        got,
        expected,
        rtol=tolerance * 10,
        atol=tolerance * max(largest, 1.0),
        msg=lambda text: f"{what}: {text}",
    )
