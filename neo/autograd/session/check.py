"""gradcheck: a function's gradients against finite differences, to any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neo import pytree
from neo.autograd.session._recording import name_of
from neo.autograd.session.reverse import vjp
from neo.autograd.session.trace import Call, trace
from neo.autograd.session.transforms import jvp
from neo.autograd.tensor import LiteTensor
from neo.errors import GradcheckError

__all__ = ["gradcheck"]


def gradcheck(
    fn: Callable[..., Any],
    args: Any,
    order: int = 2,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    seed: int = 0,
    fast: bool = False,
) -> bool:
    """Compare fn's derivatives up to `order` with central differences, entry by entry; True when all agree.

    At order k the (k−1)-th gradient map, with random cotangents, is itself the function under test, so that what is
    checked at order 2 is what an outer session would see of fn's rules. Where Policies have a jvp of their own, neo.jvp
    is compared with the gradients too. When something is off, every op that fn did is tried by itself, at the values
    that it met, and the error names the Policy at fault.

    Args:
        fn: any function of LiteTensors in any pytree, a whole inner loop included; outputs likewise.
        args: a tuple of its arguments (or one argument); every floating-point LiteTensor must be float64.
        order: highest order to check, ≥ 1.
        eps: step of the difference, absolute, in units of the input.
        rtol, atol: |got − expected| ≤ atol + rtol |expected|.
        seed: of the random cotangents and directions.
        fast: move all entries of an input together, in one random direction, instead of one after the other: for large
            inputs. An error is still named by its entry; one in few entries of many may hide below rtol.
    Raises: GradcheckError naming the order, input, entry, expected, got and the Policy; TypeError for inputs that are
        not float64.
    Cost: two calls of fn per order and entry of the inputs, or, with fast, per order and input.
    """
    args = args if isinstance(args, tuple) else (args,)
    name = name_of(fn, "gradcheck")
    if order < 1:
        raise ValueError(f"gradcheck: order must be at least 1, got {order}")
    leaves, spec = pytree.flatten(args)
    paths = spec.paths()
    tensors = [(leaf, path) for leaf, path in zip(leaves, paths, strict=True) if _moves(leaf)]
    if not tensors:
        raise TypeError(
            "gradcheck: expected at least one floating-point LiteTensor among the arguments, got none"
        )
    for leaf, path in tensors:
        if leaf.dtype != torch.float64:
            raise TypeError(
                f"gradcheck: {_where(path)} is {leaf.dtype}; finite differences need float64: x.to(torch.float64)"
            )
    check = _Check(eps, rtol, atol, torch.Generator().manual_seed(seed), fast)
    names = [_where(path) for _, path in tensors]
    for level, (map_, at, cotangent) in enumerate(check.gradient_maps(fn, args, order), start=1):
        wrong = check.first_order(map_, at, cotangent)
        if wrong is not None:
            raise GradcheckError(
                f"gradcheck({name}): order {level}: the gradient of {names[wrong.input]}, {wrong.sentence()} "
                f"{_blame(check, fn, args, level)}"
            )
        names += [f"cotangent {level}.{i}" for i in range(len(pytree.leaves(cotangent)))]
        tangent = check.forward_mode(map_, at, cotangent)
        if tangent is not None:
            raise GradcheckError(
                f"gradcheck({name}): order {level}: the tangent by jvp, {tangent.sentence('the gradients')} "
                f"{_blame_jvp(check, map_, at)}"
            )
    return True


@dataclass
class _Wrong:
    """A number that is off."""

    input: int  # which of the floating-point inputs
    entry: tuple[int, ...] | None  # of that input; None for a direction through all of them
    expected: float
    got: float

    def sentence(self, source: str = "central difference") -> str:
        where = f"entry {self.entry}, " if self.entry is not None else "along a random direction, "
        return f"{where}is off: expected {self.expected:.9g} by {source}, got {self.got:.9g}."


@dataclass
class _Check:
    """How to compare: the numbers that gradcheck was called with."""

    eps: float
    rtol: float
    atol: float
    generator: torch.Generator
    fast: bool

    def gradient_maps(
        self, fn: Callable[..., Any], args: tuple, order: int
    ) -> Iterator[tuple[Callable[..., Any], tuple, Any]]:
        """fn, then the map to its gradients, then the map to that map's, ...: each with arguments and a cotangent."""
        for level in range(1, order + 1):
            cotangent = self.random_like(fn(*args))
            yield fn, args, cotangent
            if level < order:
                fn, args = _gradient_map(fn, len(args)), (*args, cotangent)

    def first_order(self, fn: Callable[..., Any], args: tuple, cotangent: Any) -> _Wrong | None:
        """The first entry of fn's pullback that finite differences contradict; None when there is none."""
        _, pullback = vjp(fn, *args)
        got = pytree.leaves(pullback(cotangent))
        tree: Any = args
        leaves, spec = pytree.flatten(tree)
        bars = [bar.data for bar in pytree.leaves(cotangent)]

        def slope(position: int, direction: torch.Tensor) -> float:
            """Of ⟨cotangent, fn⟩ as one leaf moves along `direction`."""
            values = []
            for step in (self.eps, -self.eps):
                moved = LiteTensor(leaves[position].data + step * direction)
                changed = pytree.unflatten(spec, [*leaves[:position], moved, *leaves[position + 1 :]])
                outputs = pytree.leaves(fn(*changed))
                values.append(
                    sum(float((bar * out.data).sum()) for bar, out in zip(bars, outputs, strict=True))
                )
            return (values[0] - values[1]) / (2 * self.eps)

        for place, (position, gradient) in enumerate(
            zip([i for i, leaf in enumerate(leaves) if _moves(leaf)], got, strict=True)
        ):
            base = leaves[position].data
            if self.fast:
                direction = torch.randn(
                    base.shape, generator=self.generator, dtype=torch.float64, device="cpu"
                ).to(base.device)
                expected, found = slope(position, direction), float((gradient.data * direction).sum())
                if self.agree(found, expected):
                    continue
            wrong = None
            for entry in range(base.numel()):
                direction_of_entry = torch.zeros(base.shape, dtype=base.dtype, device=base.device)
                direction_of_entry.view(-1)[entry] = 1.0
                step, entry_got = slope(position, direction_of_entry), float(gradient.data.reshape(-1)[entry])
                if not self.agree(entry_got, step):
                    index = tuple(int(i) for i in np.unravel_index(entry, base.shape))
                    wrong = _Wrong(place, index, step, entry_got)
                    break
            if wrong is None and self.fast:
                wrong = _Wrong(place, None, expected, found)
            if wrong is not None:
                return wrong
        return None

    def forward_mode(self, fn: Callable[..., Any], args: Any, cotangent: Any) -> _Wrong | None:
        """⟨v, J t⟩ by jvp beside ⟨Jᵀ v, t⟩ by the pullback, where a Policy has a jvp of its own; else None."""
        told, _, _ = trace(fn, args)
        if not any(_has_jvp(call) for call in told.root.calls()):
            return None
        tangents: Any = pytree.tree_map(lambda leaf: self.random_like(leaf) if _moves(leaf) else None, args)
        _, tangent = jvp(fn, args, tangents)
        _, pullback = vjp(fn, *args)
        got, expected = _inner(cotangent, tangent), _inner(pullback(cotangent), tangents)
        return None if self.agree(got, expected) else _Wrong(0, None, expected, got)

    def agree(self, got: float, expected: float) -> bool:
        return abs(got - expected) <= self.atol + self.rtol * abs(expected)

    def random_like(self, tree: Any) -> Any:
        def draw(leaf: LiteTensor) -> LiteTensor:
            values = torch.randn(leaf.shape, generator=self.generator, dtype=torch.float64, device="cpu")
            return LiteTensor(values, dtype=leaf.dtype, device=leaf.device)

        return pytree.tree_map(draw, tree)


def _gradient_map(fn: Callable[..., Any], count: int) -> Callable[..., Any]:
    """(args, cotangent) ↦ the gradients, as a function to be checked at the next order."""

    def gradient(*args: Any) -> Any:
        _, pullback = vjp(fn, *args[:count])
        return pullback(args[count])

    return gradient


# --- whose fault it is -----------------------------------------------------------------------------------------------


def _blame(check: _Check, fn: Callable[..., Any], args: tuple, level: int) -> str:
    """Try what fn did op by op, at the values it met: the Policy whose own derivative of the lowest order is off.

    A user's Policies come first, and those that fn called before those that a backward calls, which may count an
    argument as constant that is none (as batch_norm_gradient does) and look wrong by themselves where they are not.
    """
    told, _, _ = trace(fn, args)
    called, everything = list(told.root.calls(walks=False)), list(told.root.calls())
    mine = [call for call in called if _by_the_user(call)]
    on_the_way_back = [call for call in everything if _by_the_user(call) and call not in called]
    neos = [call for call in called if call.policy is not None and call.policy.verified]
    for calls in (mine, on_the_way_back, neos):
        for order in range(1, level + 1):
            for call in calls:
                wrong = _off_by_itself(check, call, order)
                if wrong is not None:
                    return _accusation(check, call, order, wrong)
    return (
        "No op that fn calls is off by itself. Does fn take numbers out of a tensor (x.data, x.item(), stop_gradient), "
        "or stand at a kink?"
    )


def _off_by_itself(check: _Check, call: Call, order: int) -> _Wrong | None:
    """Whether the order-th derivative of one op contradicts finite differences, all lower ones being right."""
    if not _checkable(call):
        return None
    alone = _Check(check.eps, check.rtol, check.atol, check.generator, fast=True)
    try:
        *_, (fn, at, cotangent) = alone.gradient_maps(call.function, call.args, order)
        return alone.first_order(fn, at, cotangent)
    except Exception:  # it cannot be tried alone: at a point where it fails, no verdict
        return None


def _accusation(check: _Check, call: Call, order: int, wrong: _Wrong) -> str:
    policy: Any = type(call.policy)
    code = getattr(policy.backward, "__code__", None)
    place = f", {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    args: Any = call.args
    moved = sum(_moves(leaf) for leaf in pytree.leaves(args))
    of = f"its tensor input {wrong.input}" if wrong.input < moved else "the cotangent"
    if policy.verified:
        return (
            f"Neo's own Policy {policy.__name__}, tried alone, disagrees at the values it met: its derivative of order "
            f"{order} with respect to {of}, {wrong.sentence()} A kink there (a tie, a step of eps across a corner) is "
            f"more likely than a wrong rule; move the inputs a little, or report it."
        )
    sentence = (
        f"The fault is in Policy {policy.__name__}{place}: tried alone, its derivative of order {order} with respect "
        f"to {of}, {wrong.sentence()}"
    )
    if order > 1:  # a second-order rule may be a Policy of its own, called in backward
        alone = _Check(check.eps, check.rtol, check.atol, check.generator, fast=True)
        *_, (fn, at, _) = alone.gradient_maps(call.function, call.args, order)
        for inner in trace(fn, at)[0].root.calls():
            if not _by_the_user(inner) or isinstance(inner.policy, policy):
                continue
            if _off_by_itself(check, inner, 1) is not None:
                return f"{sentence} The wrong rule there is that of Policy {inner.name}, which its backward calls."
    return sentence


def _blame_jvp(check: _Check, fn: Callable[..., Any], args: tuple) -> str:
    for call in trace(fn, args)[0].root.calls():
        if not (_has_jvp(call) and _checkable(call)):
            continue
        (_, at, cotangent), *_ = check.gradient_maps(call.function, call.args, 1)
        if check.forward_mode(call.function, at, cotangent) is not None:
            return f"The fault is in {call.name}.jvp, which disagrees with {call.name}.backward."
    return "No op that fn calls is off by itself."


def _by_the_user(call: Call) -> bool:
    return call.policy is not None and not call.policy.verified


def _has_jvp(call: Call) -> bool:
    """A jvp that no test of Neo's own has checked."""
    return call.policy is not None and call.policy.jvp is not None and _by_the_user(call)


def _checkable(call: Call) -> bool:
    args: Any = call.args
    floats = [leaf for leaf in pytree.leaves(args) if _moves(leaf)]
    return bool(floats) and all(leaf.dtype == torch.float64 for leaf in floats)


def _inner(a: Any, b: Any) -> float:
    """⟨a, b⟩ over the leaves of two trees."""
    pairs = zip(pytree.leaves(a), pytree.leaves(b), strict=True)
    return sum(float((x.data * y.data).sum()) for x, y in pairs)


def _moves(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor) and leaf.is_floating_point()


def _where(path: tuple) -> str:
    return f"input {path[0]}" + "".join(f"[{key!r}]" for key in path[1:])
