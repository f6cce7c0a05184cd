"""A gradient rule for a whole function of pytrees: for what a Policy is too narrow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from neo import pytree
from neo.autograd._stack import TapeContext, suspended, tracked_here
from neo.autograd._tape import record
from neo.autograd.session._mirrors import describe, plain
from neo.autograd.session._recording import moves, name_of, named
from neo.autograd.session._replay import Replay
from neo.autograd.session.reverse import stop_gradient
from neo.autograd.tensor import LiteTensor
from neo.errors import GradientError, SessionError

__all__ = ["custom_gradient"]


def custom_gradient(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of pytrees with a gradient rule of its own, at every order, as a Policy has it.

        @neo.custom_gradient
        def clipped(tree, x):
            out = ...
            return out, lambda cotangent: (gradient_of_tree, gradient_of_x)

    fn returns its output, a pytree of LiteTensors, and the rule. rule(cotangent) gets a cotangent in the structure of
    the output (zeros where none came, None for integers), and returns a gradient for each positional argument, in its
    structure: None, for an argument or for a tensor in one, is no gradient; the gradient of a single argument may
    stand alone. Keyword arguments are constants. The rule may use fn's arguments, its output and what fn computed on
    the way; a session around differentiates what the rule does, and fn's output in it by the rule.

    Raises: TypeError where fn returns no such pair; GradientError naming the argument whose gradient is of another
    structure, shape, dtype or device; SessionError where fn uses a tensor past its arguments that a session around
    differentiates; SavedTensorError where fn gives other values when it is run again.
    Cost: fn and the rule. Where an outer session differentiates the rule, fn is run once more, recorded there.
    """
    name = name_of(fn, "custom_gradient")

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if TapeContext.current() is None:
            return _pair(name, fn(*args, **kwargs))[0]
        return _Call(fn, name, args, kwargs).run()

    return wrapped


class _Call:
    def __init__(self, fn: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.fn, self.name, self.args, self.kwargs = fn, name, args, kwargs
        self.leaves, self.specs = [], []  # of each argument
        for position, arg in enumerate(args):
            leaves, spec = pytree.flatten(arg, where=(name, position))
            self.leaves.append(leaves)
            self.specs.append(spec)
        self.parents = [leaf for leaves in self.leaves for leaf in leaves if moves(leaf)]

    def run(self) -> Any:
        self.replay = Replay(self.name)
        constants = stop_gradient(
            self.args
        )  # so that a tensor which is taken from a session around stands out

        def values() -> tuple[list[Any], Any]:
            out, self.rule = _pair(self.name, self.fn(*constants, **self.kwargs))
            leaves, self.spec = pytree.flatten(out, where=(self.name, "output"))
            return leaves, None

        (leaves, _), taken = suspended(values)
        self._refuse_closed_over(taken)
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, LiteTensor):
                raise TypeError(
                    f"{self.name}: expected the output to be LiteTensors, got {type(leaf).__name__} at "
                    f"{pytree.place(self.spec, i, (self.name, 'output'))}"
                )
        self._record(leaves, pytree.leaves(constants))
        return pytree.unflatten(self.spec, leaves)

    def _record(self, leaves: list[Any], given: list[Any]) -> None:
        """Have tapes know fn's output by the rule. What fn only passes on becomes a tensor of its own, in place."""
        seen = {id(leaf) for leaf in given}
        for i, leaf in enumerate(leaves):
            if id(leaf) in seen:
                leaves[i] = LiteTensor._wrap(leaf.data.detach())
            seen.add(id(leaves[i]))
        outputs = [leaf for leaf in leaves if moves(leaf)]
        self.moving = [moves(leaf) for leaf in leaves]
        self.replay.remember(self.parents, outputs)
        record(outputs, self.parents, named(self._pull_back, self.name))

    def _pull_back(self, *bars: LiteTensor) -> list[Any]:
        rule = self.rule
        if any(tracked_here(self.parents)):  # what fn computed on the way moves with its arguments, too
            rule = self._rule_anew()
        cotangents = iter(bars)
        cotangent = pytree.unflatten(self.spec, [next(cotangents) if m else None for m in self.moving])
        return self._gradients(rule(cotangent))

    def _rule_anew(self) -> Callable[[Any], Any]:
        """The rule of a run that the sessions around have recorded, its output known to them by the rule itself."""
        again = _Call(self.fn, self.name, self.args, self.kwargs)
        with self.replay.again():
            again.replay = Replay(self.name)
            out, again.rule = _pair(self.name, self.fn(*self.args, **self.kwargs))
        leaves, again.spec = pytree.flatten(out)
        self.replay.compare([leaf.data for leaf in leaves if moves(leaf)])
        again._record(leaves, pytree.leaves(self.args))
        return again.rule

    def _gradients(self, found: Any) -> list[Any]:
        """What the rule returned, as a gradient or None for each tensor among the arguments."""
        count = len(self.args)
        if count == 1 and not (isinstance(found, tuple) and len(found) == 1):
            found = (found,)
        if not isinstance(found, tuple | list) or len(found) != count:
            raise GradientError(
                f"{self.name}: the rule must return a gradient for each of the {count} positional arguments, None "
                f"where there is none; got {describe(found)}"
            )
        gradients: list[Any] = []
        for position, (tree, leaves, spec) in enumerate(zip(found, self.leaves, self.specs, strict=True)):
            parts: list[Any] = [None] * len(leaves)
            if tree is not None:
                try:
                    parts = spec.flatten_up_to(tree)
                except (ValueError, TypeError):
                    raise GradientError(
                        f"{self.name}: the gradient of argument {position} must mirror it, {plain(spec)}, or be None; "
                        f"got {plain(pytree.structure(tree))}"
                    ) from None
            for i, (leaf, part) in enumerate(zip(leaves, parts, strict=True)):
                if moves(leaf):
                    gradients.append(self._checked(leaf, part, pytree.place(spec, i, (self.name, position))))
        return gradients

    def _checked(self, leaf: LiteTensor, gradient: Any, where: str) -> Any:
        if gradient is None:
            return None
        if not isinstance(gradient, LiteTensor | torch.Tensor):
            raise GradientError(f"{where}: its gradient must be a tensor or None, got {describe(gradient)}")
        if (gradient.shape, gradient.dtype, gradient.device) != (leaf.shape, leaf.dtype, leaf.device):
            raise GradientError(
                f"{where}: its gradient is {describe(gradient)} on {gradient.device}, expected shape "
                f"{tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}, as the argument has"
            )
        return gradient

    def _refuse_closed_over(self, taken: list[LiteTensor]) -> None:
        for tensor in taken:
            raise SessionError(
                f"{self.name}: a tensor of shape {tuple(tensor.shape)} that an open session tracks is used past the "
                f"positional arguments, so that the rule could give it no gradient. Pass it as one, or use "
                f"neo.stop_gradient(x) for a constant."
            )


def _pair(name: str, found: Any) -> tuple[Any, Callable[[Any], Any]]:
    if not (isinstance(found, tuple) and len(found) == 2 and callable(found[1])):
        raise TypeError(
            f"{name}: a function with a custom gradient returns (output, rule), rule(cotangent) giving a gradient for "
            f"each argument; got {describe(found)}"
        )
    return found
