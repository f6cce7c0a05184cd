"""Linear kernels whose adjoint is a kernel too: one Policy for all of them."""

from __future__ import annotations

from neo.autograd.policy import Policy, function

__all__ = ["linear_map"]


class LinearMap(Policy):
    """y = A x for a linear kernel A;  x̄ = Aᵀ ȳ, which is linear in its turn, with adjoint A.

    apply and adjoint are functions of one torch.Tensor; they may know shapes and sizes, and no tensors.
    """

    verified = True

    def forward(self, x, apply, adjoint):
        self.ctx.save(apply, adjoint)
        return apply(x)

    def backward(self, y_bar):
        apply, adjoint = self.ctx.release
        return linear_map(y_bar, adjoint, apply)

    def jvp(self, x_dot):
        return linear_map(x_dot, *self.ctx.release)


linear_map = function(LinearMap, "linear_map")
