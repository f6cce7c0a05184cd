"""Policy: what one op promises; function: the op as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from neo.autograd._context import Context, PolicyBase
from neo.autograd._forward import ForwardTape
from neo.autograd._function import function
from neo.autograd._identity import fresh_tensor
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd._tensor import TensorBase
from neo.errors import GradientError

__all__ = ["Context", "Policy", "function"]


class Policy(PolicyBase):
    """One op and its gradient rule. Subclass it, then make it a function with `function(MyPolicy)`.

    forward(self, *args) gets torch.Tensors (and non-tensor arguments as they are) and returns one torch.Tensor or a
    tuple of them. backward(self, *cotangents) gets one cotangent per output and returns one gradient per tensor input,
    in order, each in its input's shape, dtype and device, or None for "no gradient".

    backward is the rule at every order: when an outer session tracks them, its tensors are LiteTensors and what it does
    is recorded there; write it with operators, torch functions and Neo functions, and it serves both. Sessions may be
    called in it: where its tensors are torch.Tensors, a session differentiates those among its arguments and returns
    torch.Tensors, so that the same call is right at every order.

    jvp(self, *tangents), if there is one, is the forward-mode rule, which neo.jvp then uses: it gets one tangent per
    tensor input (zeros where an input has none, None for integers) and returns one per output, each in its output's
    shape, dtype and device, or None for zero. It reads ctx.release like backward, and is the rule at every order
    likewise. Without one, the tangent comes of backward, run twice.

    A fused Policy computes by a kernel what several ops would. It names those ops as its `composition`, which is its
    oracle (autograd.check_composition holds it to it, to any order), and where backward is a kernel too, it is
    `once_differentiable`: an outer session then differentiates the composition.

    self.ctx:
        save(*tensors)      in forward: keep for backward; inputs and outputs are best, intermediates cost a replay of
                            forward at higher orders
        constant(*tensors)  in forward: mark as constant by intention, and return them
        release             in backward and jvp: the saved tensors, in order
        needs_grad          one bool per tensor input: whether anybody asks for its gradient; in jvp, whether it has
                            a tangent
    """

    broadcasts: ClassVar[bool] = False
    """Inputs broadcast and promote against each other: the tape sums and casts gradients back to each input."""

    verified: ClassVar[bool] = False
    """A test shows that this Policy's gradients have the right layout, so that the tape need not look (Neo's own ops,
    which also keep nothing on self). Leave it False in yours: a wrong shape, dtype or device then raises."""

    numbers: ClassVar[tuple[str, ...]] = ()
    """Of a verified Policy: parameters of forward that take numbers, where neither a default nor a usual name tells."""

    composition: ClassVar[Callable[..., Any] | None] = None
    """A static method of forward's arguments that returns what forward does, made of Neo's and torch's functions."""

    once_differentiable: ClassVar[bool] = False
    """backward gets torch.Tensors at every order, so that it may call a kernel; for an outer session the gradient is
    that of the composition, computed anew from forward's arguments, which the tape keeps for it. Without a composition
    a second order is refused. False: backward is the rule at every order, and a composition is for comparison alone."""

    kernel_tangent: ClassVar[bool] = False
    """jvp is a kernel of its own as long as no session around differentiates it, and then several times slower."""

    materialize: bool = True
    """Whether backward gets zeros for an output that no cotangent came to; False: None, which spares making them."""

    jvp: ClassVar[Any] = None

    def forward(self, *args: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *cotangents: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no backward: it cannot be differentiated")

    def composed_backward(self, *cotangents: Any) -> list[Any]:
        """The gradient of each tensor input by the composition: what an outer session has in backward's place.

        cotangents: a LiteTensor for each output of forward, None for zero. Gives a LiteTensor or None for each tensor
        input, with all that led to it on the outer session's tape. Cost: the composition, forward and backward.
        Raises: GradientError where the Policy names no composition, or one that returns something else than forward.
        """
        tape = Tape()  # before the tensors that it watches, which it then finds by index
        arguments, inputs = self._fresh_arguments("backward")
        watched = [tensor for tensor in inputs if tensor is not None]
        for tensor in watched:
            tape.watch(tensor)
        outputs = self._composed(tape, arguments)
        if len(outputs) != len(cotangents):
            raise GradientError(
                f"{type(self).__name__}.composition: expected {len(cotangents)} outputs, as forward has, got "
                f"{len(outputs)}"
            )
        pairs: list[tuple[Any, Any]] = [
            (out, bar)
            for out, bar in zip(outputs, cotangents, strict=True)
            if bar is not None and isinstance(out, TensorBase)
        ]
        gradients = iter(tape.gradients([out for out, _ in pairs], [bar for _, bar in pairs], watched))
        return [None if tensor is None else next(gradients) for tensor in inputs]

    def composed_jvp(self, *tangents: Any) -> tuple[Any, ...]:
        """The tangent of each output by the composition: what an outer session has in jvp's place.

        tangents: a LiteTensor for each tensor input of forward, None for zero. Gives a LiteTensor or None for each
        output.
        Cost: the composition, with its tangents. Raises: GradientError where the Policy names no composition.
        """
        level = ForwardTape()
        arguments, inputs = self._fresh_arguments("jvp")
        for tensor, tangent in zip(inputs, tangents, strict=True):
            if tensor is not None:
                level.start(tensor, tangent)
        outputs: tuple[Any, ...] = self._composed(level, arguments)
        return tuple(level.tangent_of(out) if isinstance(out, TensorBase) else None for out in outputs)

    def _fresh_arguments(self, rule: str) -> tuple[list[Any], list[Any]]:
        """forward's arguments for the composition, and a fresh tensor of each tensor input, None where not needed."""
        if type(self).composition is None:
            raise GradientError(
                f"{type(self).__name__}.{rule} is once_differentiable, and an outer session differentiates it: name a "
                f"composition (composition = staticmethod(fn), fn of forward's arguments) to be differentiated in its "
                f"place."
            )
        inputs: list[Any] = []
        return _watched(self.ctx.lifted_arguments(), iter(self.ctx.needs_grad), inputs), inputs

    def _composed(self, tape: Tape, arguments: list[Any]) -> tuple[Any, ...]:
        """The outputs of the composition, with `tape` open."""
        composition: Any = type(self).composition
        TapeContext.push(tape)
        try:
            outputs = composition(*arguments)
        finally:
            while TapeContext.pop() is not tape:
                pass
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _watched(values: Any, needs: Iterator[bool], inputs: list[Any]) -> list[Any]:
    """`values` with a fresh tensor for each one that needs a gradient; adds it to `inputs`, None for the others."""
    out: list[Any] = []
    for value in values:
        if isinstance(value, TensorBase):
            tensor: Any = value
            inputs.append(fresh_tensor(tensor) if next(needs) else None)
            out.append(tensor if inputs[-1] is None else inputs[-1])
        elif isinstance(value, tuple | list):
            items = _watched(value, needs, inputs)
            out.append(type(value)(*items) if hasattr(value, "_fields") else type(value)(items))
        else:
            out.append(value)
    return out
