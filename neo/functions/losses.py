"""Losses between predictions and targets. reduction is "none", "mean" or "sum"."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._tangents import total
from neo.functions.elementwise import Binary, is_exactly, is_number
from neo.functions.registry import implements, raw
from neo.functions.softmaxes import log_softmax, normalized_exp
from neo.functions.squared_errors import squared_error
from neo.guards import known
from neo.kernels import direct

_nll_forward = torch.ops.aten.nll_loss_forward.default
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def reduction_code(reduction, name):
    if reduction not in REDUCTIONS:
        raise ValueError(f'{name}: reduction must be "none", "mean" or "sum", got {reduction!r}')
    return REDUCTIONS[reduction]


def reduced(losses, reduction, name):
    """A tensor of losses as it is, averaged or summed."""
    code = reduction_code(reduction, name)
    return losses if code == 0 else losses.mean() if code == 1 else losses.sum()


# --- classes -------------------------------------------------------------------------------------------------


class CrossEntropy(Policy):
    """ℓ = −log softmax(x)[t] over rows of x (n, classes), summed, averaged or neither;
    x̄ = ℓ̄ (softmax(x) − onehot(t)), over n if averaged;  ℓ̇ = Σ ẋ times that with ℓ̄ = 1.

    log softmax(x) is marked constant: the rule of the gradient counts in that it comes from x.
    """

    verified = True

    @staticmethod
    def composition(x, target, reduction, ignore_index):
        losses, kept = row_nll(log_softmax(x, 1), target, ignore_index), raw(target) != ignore_index
        return losses if reduction == 0 else losses.sum() if reduction == 2 else losses.sum() / kept.sum()

    def forward(self, x, target, reduction, ignore_index):
        loss, log_p, count = direct.cross_entropy(x, target, reduction, ignore_index)
        self.ctx.constant(log_p, count)
        self.ctx.save(x, target, log_p, count, reduction, ignore_index)
        return loss

    def backward(self, loss_bar):
        return cross_entropy_gradient(loss_bar, *self.ctx.release), None

    def jvp(self, x_dot, _):
        x, *saved = self.ctx.release
        rows = saved[-2] == 0  # a loss for each row
        one = torch.ones(x.shape[:1] if rows else (), dtype=x.dtype, device=x.device)
        moved = x_dot * cross_entropy_gradient(one, x, *saved)
        return moved.sum(1) if rows else moved.sum()


class CrossEntropyGradient(Policy):
    """z = m g (p − onehot(t)),  p = softmax(x), m = 1/n for the mean, 0 for ignored rows;
    ḡ = Σ m z̄ (p − onehot(t)), x̄ = m g p (z̄ − Σ z̄ p);  ż = m ġ (p − onehot(t)) + m g p (ẋ − Σ ẋ p)."""

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(g, x, target, log_p, count, reduction, ignore_index):
        """p anew as a function of x, which it is."""
        labels = torch.where(raw(target) == ignore_index, 0, raw(target))
        residual = normalized_exp(x, 1) - F.one_hot(labels, x.shape[1]).to(x.dtype)
        return residual * row_weights(g, target, count, reduction, ignore_index)

    def forward(self, g, x, target, log_p, count, reduction, ignore_index):
        self.ctx.save(g, x, target, log_p, count, reduction, ignore_index)
        return direct.cross_entropy_gradient(g, log_p, target, count, reduction, ignore_index)

    def backward(self, z_bar):
        g, _, target, log_p, count, reduction, ignore_index = self.ctx.release
        needs = self.ctx.needs_grad
        g_bar = x_bar = None
        if needs[0]:
            one = torch.ones_like(g)
            residual = z_bar * direct.cross_entropy_gradient(
                one, log_p, target, count, reduction, ignore_index
            )
            g_bar = residual.sum(1) if reduction == 0 else residual.sum()
        if needs[1]:
            x_bar = direct.cross_entropy_double_backward(
                z_bar, g, log_p, target, count, reduction, ignore_index
            )
        return g_bar, x_bar, None, None, None

    def jvp(self, g_dot, x_dot, *_):
        g, _, target, log_p, *rest = self.ctx.release
        count, *codes = rest
        return total(
            None if g_dot is None else direct.cross_entropy_gradient(g_dot, log_p, target, count, *codes),
            None
            if x_dot is None
            else direct.cross_entropy_double_backward(x_dot, g, log_p, target, count, *codes),
        )


def row_weights(g, target, count, reduction, ignore_index):
    """m g for each row, as a column; or as one number where that is the same for all rows."""
    if reduction == 1:
        g = g / count
    elif reduction == 0:
        g = g.unsqueeze(1)
    ignored = raw(target) == ignore_index
    if known(ignored.any()) is False:
        return g
    return torch.where(ignored.unsqueeze(1), 0.0, g)


row_cross_entropy = function(CrossEntropy, "cross_entropy")
cross_entropy_gradient = function(CrossEntropyGradient, "cross_entropy_gradient")


class RowNll(Policy):
    """ℓₙ = −x[n, tₙ], 0 for ignored rows, for log-probabilities x (n, classes); linear in x."""

    verified = True

    def forward(self, x, target, ignore_index):
        self.ctx.save(target, tuple(x.shape), ignore_index)
        return _nll_forward(x, target, None, 0, ignore_index)[0]

    def backward(self, loss_bar):
        target, shape, ignore_index = self.ctx.release
        kept = raw(target) != ignore_index
        column = torch.where(kept, raw(target), 0).unsqueeze(1)
        pulled = torch.where(kept, -loss_bar, 0.0).unsqueeze(1)
        return torch.scatter_add(pulled.new_zeros(shape), 1, column, pulled), None

    def jvp(self, x_dot, _):
        target, _, ignore_index = self.ctx.release
        return row_nll(x_dot, raw(target), ignore_index)


row_nll = function(RowNll, "nll_loss")


def named_reduction(reduction, size_average, reduce, name):
    if size_average is not None or reduce is not None:
        raise TypeError(f"{name}: size_average and reduce are long deprecated; use reduction=")
    return reduction


def _rows(x, target, name):
    """Scores (n, classes, *space) or (classes,) as (rows, classes), class indices as (rows,); and the loss shape."""
    if x.ndim == 1:
        return x.unsqueeze(0), target.reshape((1,)), ()
    if x.ndim == 2:
        if target.ndim != 1 or target.shape[0] != x.shape[0]:
            raise ValueError(
                f"{name}: expected a target of shape ({x.shape[0]},) for scores {tuple(x.shape)}, got "
                f"{tuple(target.shape)}"
            )
        return x, target, None
    shape = (x.shape[0], *x.shape[2:])
    if tuple(target.shape) != shape:
        raise ValueError(
            f"{name}: expected a target of shape {shape} for scores {tuple(x.shape)}, got "
            f"{tuple(target.shape)}"
        )
    return x.movedim(1, -1).reshape((-1, x.shape[1])), target.reshape((-1,)), shape


@implements(F.cross_entropy, scalars=("label_smoothing",))
def cross_entropy(
    x,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """−Σ q log softmax(x), q the target: class indices (n, *space), or probabilities in the shape of x.

    x: scores (n, classes, *space) or (classes,). weight: one factor a class.
    label_smoothing: ε, in q ← (1 − ε) q + ε / classes.
    "mean" divides by the total weight of the targets that are not ignored.
    """
    reduction = named_reduction(reduction, size_average, reduce, "cross_entropy")
    code = reduction_code(reduction, "cross_entropy")
    expect_class_weights(weight, x.shape[min(1, x.ndim - 1)], "cross_entropy")
    if target.is_floating_point():
        return _soft_cross_entropy(x, target, weight, reduction, label_smoothing)
    rows, labels, shape = _rows(x, target, "cross_entropy")
    if weight is None and is_exactly(label_smoothing, 0.0):
        losses = row_cross_entropy(rows, labels, code, ignore_index)
        return losses if code or shape is None else losses.reshape(shape)
    log_p = log_softmax(rows, 1)
    losses, factors, kept = _weighted_nll(log_p, labels, weight, ignore_index)
    if not is_exactly(label_smoothing, 0.0):
        spread = -(log_p if weight is None else log_p * weight).sum(1) / rows.shape[1]
        losses = losses * (1 - label_smoothing) + torch.where(kept, spread, 0.0) * label_smoothing
    if code == 0:
        return losses if shape is None else losses.reshape(shape)
    return losses.sum() if code == 2 else losses.sum() / factors.sum()


def expect_class_weights(weight: Any, classes: int, name: str) -> None:
    """Raises RuntimeError for a weight that is no vector of one number a class."""
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(
            f"{name}: weight must have shape ({classes},), one factor a class, got {tuple(weight.shape)}"
        )


def _weighted_nll(log_p, labels, weight, ignore_index):
    """The losses of the rows, the weights they have in the mean, and the mask of the rows not ignored."""
    losses, kept = row_nll(log_p, labels, ignore_index), raw(labels) != ignore_index
    if weight is None:
        return losses, kept.to(losses.dtype), kept
    factors = torch.where(kept, weight[torch.where(kept, raw(labels), 0)], 0.0)
    return losses * factors, factors, kept


def _soft_cross_entropy(x, target, weight, reduction, label_smoothing):
    if target.shape != x.shape:
        raise ValueError(
            f"cross_entropy: target probabilities must have the shape of the scores, {tuple(x.shape)}; got "
            f"{tuple(target.shape)}"
        )
    classes = 0 if x.ndim == 1 else 1
    if not is_exactly(label_smoothing, 0.0):
        target = target * (1 - label_smoothing) + label_smoothing / x.shape[classes]
    terms = log_softmax(x, classes) * target
    if weight is not None:
        terms = terms * weight.reshape((-1,) + (1,) * (x.ndim - classes - 1))
    losses = -terms.sum(classes)
    if reduction == "mean":
        return losses.sum() / (x.numel() // x.shape[classes])
    return reduced(losses, reduction, "cross_entropy")


@implements(F.nll_loss)
def nll_loss(x, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """−w[t] x[t] for log-probabilities x (n, classes, *space); "mean" divides by the sum of the weights met."""
    reduction = named_reduction(reduction, size_average, reduce, "nll_loss")
    code = reduction_code(reduction, "nll_loss")
    expect_class_weights(weight, x.shape[min(1, x.ndim - 1)], "nll_loss")
    rows, labels, shape = _rows(x, target, "nll_loss")
    losses, factors, _ = _weighted_nll(rows, labels, weight, ignore_index)
    if code == 0:
        return losses if shape is None else losses.reshape(shape)
    return losses.sum() if code == 2 else losses.sum() / factors.sum()


# --- numbers -------------------------------------------------------------------------------------------------


def _alike(x, target):
    """Are these floating-point tensors, not empty, of one shape, dtype and device, that no autocast is to change?"""
    kinds = LiteTensor, torch.Tensor
    return (
        isinstance(x, kinds)
        and isinstance(target, kinds)
        and x.dtype is target.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.shape == target.shape
        and x.numel() > 0
        and x.device == target.device
        and not autocast_enabled()
    )


@implements(F.mse_loss)
def mse_loss(x, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """(x − t)²."""
    reduction = named_reduction(reduction, size_average, reduce, "mse_loss")
    if weight is None and reduction in ("mean", "sum") and _alike(x, target):
        return squared_error(x, target, 2.0 if reduction == "sum" else 2.0 / x.numel())
    away = x - target
    losses = away * away
    return reduced(losses if weight is None else losses * weight, reduction, "mse_loss")


@implements(F.l1_loss)
def l1_loss(x, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|x − t|, with gradient 0 where they are equal."""
    reduction = named_reduction(reduction, size_average, reduce, "l1_loss")
    losses = torch.abs(x - target)
    return reduced(losses if weight is None else losses * weight, reduction, "l1_loss")


@implements(F.smooth_l1_loss, scalars=("beta",))
def smooth_l1_loss(x, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """(x − t)² / 2β where |x − t| < β, else |x − t| − β/2."""
    reduction = named_reduction(reduction, size_average, reduce, "smooth_l1_loss")
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta, got {beta}")
    if is_exactly(beta, 0):
        return l1_loss(x, target, reduction=reduction)
    away = x - target
    far = torch.abs(away)
    near = raw(far) < beta
    width = beta if is_number(beta) else torch.where(raw(beta) == 0, 1.0, beta)  # nothing is near at 0
    losses = torch.where(near, away * away * (0.5 / width), far - 0.5 * beta)
    return reduced(losses, reduction, "smooth_l1_loss")


@implements(F.huber_loss, scalars=("delta",))
def huber_loss(x, target, reduction="mean", delta=1.0, weight=None):
    """(x − t)² / 2 where |x − t| < δ, else δ (|x − t| − δ/2)."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    away = x - target
    far = torch.abs(away)
    losses = torch.where(raw(far) < delta, away * away * 0.5, (far - 0.5 * delta) * delta)
    return reduced(losses if weight is None else losses * weight, reduction, "huber_loss")


@implements(F.binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits(
    x, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """−w (p t log σ(x) + (1 − t) log σ(−x)), p = pos_weight."""
    name = "binary_cross_entropy_with_logits"
    reduction = named_reduction(reduction, size_average, reduce, name)
    if target.shape != x.shape:
        raise ValueError(
            f"{name}: target size {tuple(target.shape)} must be the same as input size {tuple(x.shape)}"
        )
    log_yes = F.logsigmoid(x)
    if pos_weight is None:  # log σ(−x) = log σ(x) − x
        losses = (1 - target) * x - log_yes
    else:
        losses = (1 - target) * x - log_yes * ((pos_weight - 1) * target + 1)
    return reduced(losses if weight is None else losses * weight, reduction, name)


class Xent(Binary):
    """ℓ = −t max(log x, −100) − (1 − t) max(log(1 − x), −100);
    x̄ = ℓ̄ (x − t) / max(x (1 − x), 1e−12), t̄ = ℓ̄ (log(1 − x) − log x)."""

    def forward(self, x, target):
        self.ctx.save(x, target)
        return F.binary_cross_entropy(x, target, reduction="none")

    def partials(self, of_x, of_target):
        x, target = self.ctx.release
        if of_x is not None:
            of_x = of_x * (x - target) / torch.clamp(x * (1 - x), min=1e-12)
        return of_x, None if of_target is None else of_target * (torch.log1p(-x) - torch.log(x))


_xent = function(Xent, "binary_cross_entropy")


@implements(F.binary_cross_entropy)
def binary_cross_entropy(x, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """−w (t log x + (1 − t) log(1 − x)) for probabilities x; logarithms no lower than −100."""
    reduction = named_reduction(reduction, size_average, reduce, "binary_cross_entropy")
    if target.shape != x.shape:
        raise ValueError(
            f"binary_cross_entropy: target size {tuple(target.shape)} must be the same as input size "
            f"{tuple(x.shape)}"
        )
    losses = _xent(x, target)
    return reduced(losses if weight is None else losses * weight, reduction, "binary_cross_entropy")


@implements(F.kl_div, only=True, name="kl_div")
def kl_div(x, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """t (log t − x) for log-probabilities x; reduction "batchmean" divides the sum by the size of dim 0."""
    reduction = named_reduction(reduction, size_average, reduce, "kl_div")
    losses = torch.exp(target) * (target - x) if log_target else torch.xlogy(target, target) - target * x
    if reduction == "batchmean":
        return losses.sum() / x.shape[0] if x.ndim else losses
    return reduced(losses, reduction, "kl_div")
