"""Mixed mode: a gradient of which a session around records nothing, differentiated by forward and reverse mode.

The gradient g(w, θ) = ∇_w f(w; θ), and what an outer session wants of it, for a cotangent ḡ: ∂/∂(w, θ) ⟨ḡ, g⟩. Second
derivatives commute, so that this is d/dε ∇_(w, θ) f(w + ε ḡ; θ) at ε = 0, in either order: the tangent of a gradient
(forward over reverse), or the gradient of a tangent (reverse over forward). Neither needs memory of the inner backward
pass, but a tangent beside each tensor of a gradient (Kemaev et al. 2025, "Scalable meta-learning via mixed-mode
differentiation", arXiv:2505.00793).

Of a product of matrices a gradient has three; forward over reverse nine, and reverse over forward eight, for it does
without the gradients of the weights themselves. It is taken where all ops are Neo's, and none has a kernel for its
tangent (kernel_tangent), which would be differentiated as the ops that it stands for, at two to three times the cost.
Of a rule of the user's it is the gradient that counts at every order, not the tangent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from neo import pytree
from neo.autograd._forward import ForwardTape
from neo.autograd._identity import full_gradients
from neo.autograd._stack import TapeContext, suspended
from neo.autograd._tape import Tape, record
from neo.autograd.session import _mirrors
from neo.autograd.session._recording import Arguments, as_lite_tensors, close, moves, named, push_through, run
from neo.autograd.session._replay import Replay
from neo.autograd.session.checkpointing import checkpoint
from neo.autograd.tensor import LiteTensor

__all__ = ["MixedGradient"]


class MixedGradient:
    """One call of value_and_grad(fn, mode="mixed") inside a session; its arguments are what that has checked."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: int | tuple[int, ...] | None,
        has_aux: bool,
        cotangent: Any,
        name: str,
    ):
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.argnums, self.has_aux, self.cotangent, self.name = argnums, has_aux, cotangent, name

    def run(self) -> tuple[Any, Any]:
        """fn's value and its gradients, recorded as one node."""
        self.replay = Replay(self.name)
        (leaves, (spec, slots)), self.taken = suspended(self._reverse)
        moving = [i for i, leaf in enumerate(leaves) if moves(leaf)]
        if self.taken:
            for i in moving:  # not what fn has returned, which may be known to the tapes around
                leaves[i] = LiteTensor._wrap(leaves[i].data.detach())
        count = len(leaves) - len(slots.fresh)
        self.values = sum(
            i < count for i in moving
        )  # how many outputs of the node are fn's, before the gradients
        outputs = [leaves[i] for i in moving]
        self.replay.remember(self.taken, outputs[: self.values])
        if self.taken:
            rules = self._checkpointed(self._pull_back), self._checkpointed(self._push)
            record(outputs, self.taken, *rules, materialize=False)
        return pytree.unflatten(spec, leaves[:count]), slots.mirrored(leaves[count:])

    def _checkpointed(self, rule: Callable[[list[Any]], list[Any]]) -> Callable[..., list[Any]]:
        """The rule for a session around, which keeps nothing of what the rule does either."""
        return named(lambda *given: checkpoint(rule)(list(given)), self.name)

    def _reverse(self) -> tuple[list[Any], Any]:
        """The leaves of fn's output and the gradients; how to put them together."""
        tape = Tape()
        slots = Arguments(self.args, self.argnums, self.name)
        out, outputs = run(tape, self.fn, slots, self.kwargs, self.has_aux, self.name)
        self.tangent_first = all(_takes_tangent_first(node.policy) for node in tape.nodes)
        gradients = tape.gradients(outputs, self._cotangents(out, outputs), slots.fresh)
        leaves, spec = pytree.flatten(out, where=(self.name, "output"))
        return [*leaves, *full_gradients(gradients, slots.leaves)], (spec, slots)

    def _cotangents(self, out: Any, outputs: list[LiteTensor]) -> list[Any]:
        if self.cotangent is None:
            return [torch.ones_like(output.data) for output in outputs]
        spec = pytree.structure(out[0] if self.has_aux else out)
        return _mirrors.cotangents(self.name, outputs, spec, self.cotangent)

    def _pull_back(self, given: list[LiteTensor | None]) -> list[Any]:
        """The gradients of what was taken: by the tangents ḡ of the arguments, and by fn's own cotangents."""
        value_bars, gradient_bars = given[: self.values], given[self.values :]
        wanted = [i for i, bar in enumerate(value_bars) if bar is not None]
        level, tape = ForwardTape(), Tape()
        around, within = (tape, level) if self.tangent_first else (level, tape)
        for value in self.taken:
            tape.watch(value)
        with self.replay.again():
            TapeContext.push(around)
            try:
                TapeContext.push(within)
                slots = Arguments(self.args, self.argnums, self.name)  # to the tape, the arguments themselves
                for tensor, bar in zip(slots.fresh, gradient_bars, strict=True):
                    if bar is not None:
                        level.start(tensor, bar)
                out = self.fn(*slots.args, **self.kwargs)
                ends = [leaf for leaf in pytree.leaves(out[0] if self.has_aux else out) if moves(leaf)]
                cotangents = self._cotangents(out, ends)
                if self.cotangent is not None:  # may be what a session around differentiates
                    ends = [(end * bar).sum() for end, bar in zip(ends, cotangents, strict=True)]
                    cotangents = [torch.ones_like(end.data) for end in ends]
                values = [leaf for leaf in pytree.leaves(out) if moves(leaf)]
                self.replay.compare([value.data for value in values])
                dots = [level.tangent_of(end) for end in ends] if self.tangent_first else []
                close(within)
                found: list[Any] = [None] * len(self.taken)
                if not self.tangent_first and any(bar is not None for bar in gradient_bars):
                    gradients = tape.gradients(ends, cotangents, self.taken, keep=bool(wanted))
                    found = [level.tangent_of(g) if isinstance(g, LiteTensor) else None for g in gradients]
            finally:
                close(around)
        tangents = [pair for pair in zip(dots, cotangents, strict=False) if isinstance(pair[0], LiteTensor)]
        ends = [*(dot for dot, _ in tangents), *(values[i] for i in wanted)]
        if ends:
            bars = [*(one for _, one in tangents), *(value_bars[i] for i in wanted)]
            direct = tape.gradients(ends, bars, self.taken)
            found = [_total(a, b) for a, b in zip(found, direct, strict=True)]
        return as_lite_tensors(found)

    def _push(self, dots: list[LiteTensor | None]) -> list[Any]:
        """Forward mode: the tangents of fn's outputs and of the gradients."""
        with self.replay.again():
            outputs, found = push_through(lambda: self._reverse()[0], self.taken, dots)
        self.replay.compare([out.data for out in outputs[: self.values]])
        return found


def _total(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _takes_tangent_first(policy: Any) -> bool:
    """Whether an op's tangent may be differentiated in the place of its gradient, at no more cost."""
    return policy.verified and policy.jvp is not None and not policy.kernel_tangent
