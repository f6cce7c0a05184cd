"""Policy: what one op promises; function: the op as a function of tensors."""

from __future__ import annotations

from typing import Any, ClassVar

from neo.autograd._context import Context, PolicyBase
from neo.autograd._function import function

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

    materialize: bool = True
    """Whether backward gets zeros for an output that no cotangent came to; False: None, which spares making them."""

    jvp: ClassVar[Any] = None

    def forward(self, *args: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *cotangents: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no backward: it cannot be differentiated")
