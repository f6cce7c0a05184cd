"""The square root under an optimiser's fraction, which has a derivative where a gradient is exactly zero."""

from __future__ import annotations

import torch

from neo.autograd.policy import Policy, function

__all__ = ["root"]


class Root(Policy):
    """y = √x for x ≥ 0;  x̄ = ȳ / (2y), and 0 where x = 0.

    Adam, RMSprop and Adagrad step by m / (√v + ε), where v sums squares of the gradients g, and m the gradients. Where
    every g so far was exactly zero, so are v and m, and √'s own rule gives 0·∞ = NaN. What is true there: as g moves
    away from 0, √v = c |g| and the step is g / (c |g| + ε), whose derivative at 0 is 1 / ε, that of the numerator
    alone; √v adds m · d√v = O(g), which is 0. So the rule 0 makes the first derivative exact. The second jumps from
    2c/ε² to −2c/ε² at 0; the rule gives the value between, 0.
    """

    verified = True

    def forward(self, x):
        y = torch.sqrt(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        flat = y == 0
        return torch.where(flat, 0.0, y_bar / (2 * torch.where(flat, 1.0, y)))

    def jvp(self, x_dot):
        return self.backward(x_dot)  # entry by entry


root = function(Root, "root")
