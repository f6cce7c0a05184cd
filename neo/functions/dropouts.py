"""Dropout and its relatives. What is drawn is a constant at every order, and is what torch's generator gives torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd._batched import in_vmap
from neo.autograd.policy import function
from neo.autograd.tensor import LiteTensor
from neo.draws import dropping, generator_for
from neo.functions.elementwise import Unary
from neo.functions.registry import implements


def dropout_mask(shape: Any, p: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """0 with probability p, else 1 / (1 − p), for each entry of a shape: what dropout multiplies by."""
    generator = generator_for(device)
    ones = torch.ones(shape, dtype=dtype, device=device)
    if generator is None:
        return F.dropout(ones, p)  # so that torch's generator drops the same entries here and in torch
    if p == 1:
        return ones.zero_()
    if in_vmap():  # where torch refuses to draw in place what is to differ from example to example
        return torch.bernoulli(ones * (1 - p), generator=generator) / (1 - p)
    return ones.bernoulli_(1 - p, generator=generator).div_(1 - p)


class Dropout(Unary):
    """y = s x, s = 0 with probability p and else 1 / (1 − p), drawn as drawing.py says;  x̄ = s ȳ."""

    def forward(self, x, p, shape):
        scale = self.ctx.constant(dropout_mask(shape, p, x.dtype, x.device))
        self.ctx.save(scale)
        return x * scale

    def backward(self, y_bar):
        (scale,) = self.ctx.release
        return y_bar * scale


_dropped = function(Dropout, "dropout")


def _dropout(x: Any, p: float, shape: tuple[int, ...]) -> Any:
    """x times one draw for each entry of shape; on a torch tensor as torch has it, torch.autograd included."""
    return (
        _dropped(x, p, shape) if isinstance(x, LiteTensor) else x * dropout_mask(shape, p, x.dtype, x.device)
    )


@implements(F.dropout, torch.dropout)
def dropout(x, p=0.5, training=True, inplace=False):
    """x with entries set to 0 with probability p and the others divided by 1 − p; x itself when not training."""
    _check_probability(p, "dropout")
    return _dropout(x, p, tuple(x.shape)) if training and p and dropping() else x


def _of_channels(x: Any, p: float, training: bool, name: str, space: int) -> Any:
    """One draw for each sample and channel of x (n, c, *space), or for each channel of x (c, *space)."""
    _check_probability(p, name)
    if x.ndim < 2:
        raise RuntimeError(
            f"{name}: feature dropout requires at least 2 dimensions in the input, got {x.ndim}"
        )
    if not training or not p or not dropping():
        return x
    if x.ndim == space + 1:
        return _dropout(x, p, (1, x.shape[0], *[1] * space)[1:])
    return _dropout(x, p, (*x.shape[:2], *[1] * (x.ndim - 2)))


@implements(F.dropout1d)
def dropout1d(x, p=0.5, training=True, inplace=False):
    """Dropout of whole channels of x (n, c, l) or (c, l)."""
    return _of_channels(x, p, training, "dropout1d", 1)


@implements(F.dropout2d)
def dropout2d(x, p=0.5, training=True, inplace=False):
    """Dropout of whole channels of x (n, c, *space): one draw for each sample and channel."""
    return _of_channels(x, p, training, "dropout2d", -1)


@implements(F.dropout3d)
def dropout3d(x, p=0.5, training=True, inplace=False):
    """Dropout of whole channels of x (n, c, d, h, w) or (c, d, h, w)."""
    return _of_channels(x, p, training, "dropout3d", 3)


@implements(
    torch.ops.aten.native_dropout_backward.default,
    torch.ops.aten.native_dropout_backward,
    only=True,
    scalars=("scale",),
)
def native_dropout_backward(g, mask, scale):
    """ȳ scale where the mask holds."""
    return g * mask.to(g.dtype) * scale


# --- for self-normalising nets -------------------------------------------------------------------------------

_ALPHA = 1.7580993408473766  # −lim selu(x) for x → −∞


def _alpha_dropout(x: Any, p: float, training: bool, name: str, shape: tuple[int, ...]) -> Any:
    """a x + b where kept, a α′ + b where dropped, α′ = −1.758; a and b keep mean 0 and variance 1.

    Klambauer et al. 2017, arXiv:1706.02515, equation 5.
    """
    _check_probability(p, name)
    if not training or not p or not dropping():
        return x
    if p == 1:
        return x * 0.0
    whether = dropout_mask(shape, p, x.dtype, x.device) * (1 - p)
    a = 1 / ((_ALPHA**2 * p + 1) * (1 - p)) ** 0.5
    shift = (whether - 1) * (_ALPHA * a) + _ALPHA * a * p
    return x * (whether * a) + shift


@implements(F.alpha_dropout, torch.alpha_dropout)
def alpha_dropout(x, p=0.5, training=False, inplace=False):
    """Dropout that keeps mean and variance of SELU activations."""
    return _alpha_dropout(x, p, training, "alpha_dropout", tuple(x.shape))


@implements(F.feature_alpha_dropout, torch.feature_alpha_dropout)
def feature_alpha_dropout(x, p=0.5, training=False, inplace=False):
    """alpha_dropout of whole channels of x (n, c, *space)."""
    if training and x.ndim < 2:
        raise RuntimeError(
            f"feature_alpha_dropout: feature dropout requires at least 2 dimensions in the input, got {x.ndim}"
        )
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    return _alpha_dropout(x, p, training, "feature_alpha_dropout", shape)


@implements(F.rrelu, torch.rrelu)
def rrelu(x, lower=1.0 / 8, upper=1.0 / 3, training=False, inplace=False):
    """x where x > 0, else a x; a uniform in [lower, upper] for each entry when training, else its mean. Xu et al. 2015,
    arXiv:1505.00853."""
    if lower > upper:
        raise RuntimeError("rrelu: Lower bound should be less than or equal to the upper bound")
    if not training or not dropping():
        return F.leaky_relu(x, (lower + upper) / 2)
    # torch draws for entries ≤ 0 alone, one after the other: let it, on numbers that give the slopes away
    data = x.data if not isinstance(x, torch.Tensor) else x
    slopes = torch.rrelu(
        torch.where(data > 0, 1.0, -1.0).to(x.dtype), lower, upper, True, generator_for(data.device)
    ).abs()
    return torch.where(data > 0, x, x * slopes)


@implements(F.gumbel_softmax, scalars=("tau",))
def gumbel_softmax(logits, tau=1, hard=False, eps=1e-10, dim=-1):
    """softmax((logits + g) / τ), g drawn from Gumbel(0, 1); hard: one-hot in value, soft in gradient.

    Jang et al. 2017, arXiv:1611.01144.
    """
    soft = torch.softmax((logits - _exponential(logits).log()) / tau, dim)
    if not hard:
        return soft
    values = soft.detach()
    chosen = torch.zeros_like(values).scatter(dim, values.argmax(dim, keepdim=True), 1.0)
    return chosen - values + soft


def _exponential(like: Any) -> torch.Tensor:
    shape, generator = tuple(like.shape), generator_for(like.device)
    if in_vmap():  # where torch refuses to draw in place what is to differ from example to example
        return -torch.log1p(-torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator))
    return torch.empty(shape, dtype=like.dtype, device=like.device).exponential_(generator=generator)


def _check_probability(p: float, name: str) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: dropout probability has to be between 0 and 1, but got {p}")
