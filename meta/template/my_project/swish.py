"""A gradient rule: forward gives the value, backward the cotangent of the input; both hold at every order."""

from __future__ import annotations

from typing import Any

import torch
from neo import autograd
from neo.functions import function


class Swish(autograd.Policy):
    """y = x σ(x);  x̄ = ȳ (s + x s (1 − s)), s = σ(x).  Ramachandran, Zoph, Le 2017, arXiv:1710.05941."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ctx.save(x)
        return x * torch.sigmoid(x)

    def backward(self, y_bar: Any) -> Any:
        (x,) = self.ctx.release
        s = torch.sigmoid(x)
        return y_bar * (s + x * s * (1 - s))


swish = function(Swish)
