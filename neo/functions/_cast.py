"""The cast, which the registry itself needs (autocasting.py); casting.py makes torch's methods of it."""

from __future__ import annotations

from neo.autograd.policy import Policy, function

__all__ = ["Cast", "cast"]


class Cast(Policy):
    """y = x as another dtype, on another device;  x̄ = ȳ as those of x."""

    verified = True

    def forward(self, x, dtype, device):
        self.ctx.save(x.dtype, x.device, dtype, device)
        return x.to(device=device, dtype=dtype)

    def backward(self, y_bar):
        dtype, device, *_ = self.ctx.release
        return y_bar.to(device=device, dtype=dtype)

    def jvp(self, x_dot):
        *_, dtype, device = self.ctx.release
        return cast(x_dot, dtype, device)


cast = function(Cast, "to")
