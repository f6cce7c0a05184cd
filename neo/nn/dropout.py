"""Dropout as a layer."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from neo.draws import source
from neo.errors import DrawError
from neo.nn.module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """x with entries set to 0 with probability p and the others divided by 1 − p. Srivastava et al. 2014.

    A layer has no training mode and keeps no generator, so the caller says which it is:

        with neo.nn.draws(seed=step):   # drops, the same entries for the same seed
            loss = ...
        with neo.nn.draws(None):        # drops nothing: evaluation
            accuracy = ...

    channels: drop whole channels (dim 1) of x (n, channels, *space), Tompson et al. 2015, arXiv:1411.4280.
    Raises: DrawError outside of such a block, for neither could be meant; not when p = 0.
    """

    def __init__(self, p: float = 0.5, channels: bool = False):
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be in [0, 1], got {p}")
        self.p, self.channels = p, channels

    def __call__(self, params: Any, x: Any) -> Any:
        if self.p == 0:
            return x
        if source() is None:
            raise DrawError(
                "Dropout: is this training or evaluation? Say `with neo.nn.draws(seed=...):` to drop, the same entries "
                "for the same seed, or `with neo.nn.draws(None):` to drop nothing."
            )
        return F.dropout2d(x, self.p) if self.channels else F.dropout(x, self.p)
