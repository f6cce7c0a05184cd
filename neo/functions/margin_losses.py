"""Losses that ask for a margin: hinges on scores, on similarities, on distances. Flat where the margin is kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.functions.distances import pairwise_distance
from neo.functions.losses import expect_class_weights, named_reduction, reduced
from neo.functions.registry import implements, raw


@implements(F.soft_margin_loss)
def soft_margin_loss(x, target, size_average=None, reduce=None, reduction="mean"):
    """log(1 + e^(−t x)), t = ±1."""
    reduction = named_reduction(reduction, size_average, reduce, "soft_margin_loss")
    return reduced(torch.log1p(torch.exp(-target * x)), reduction, "soft_margin_loss")


@implements(F.hinge_embedding_loss, only=True, name="hinge_embedding_loss", scalars=("margin",))
def hinge_embedding_loss(x, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """x where t = 1, max(0, margin − x) where t = −1."""
    reduction = named_reduction(reduction, size_average, reduce, "hinge_embedding_loss")
    apart = torch.where(raw(target) == 1, 0.0, torch.clamp_min(margin - x, 0.0))
    close = torch.where(raw(target) == -1, 0.0, x)
    return reduced(apart + close, reduction, "hinge_embedding_loss")


@implements(F.margin_ranking_loss, only=True, name="margin_ranking_loss", scalars=("margin",))
def margin_ranking_loss(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """max(0, −t (x₁ − x₂) + margin), t = 1 where x₁ is to be the larger."""
    reduction = named_reduction(reduction, size_average, reduce, "margin_ranking_loss")
    if not (input1.ndim == input2.ndim == target.ndim):
        raise RuntimeError(
            f"margin_ranking_loss: All input tensors should have same dimension but got sizes: input1: "
            f"{tuple(input1.shape)}, input2: {tuple(input2.shape)}, target: {tuple(target.shape)}"
        )
    return reduced(
        torch.clamp_min(-target * (input1 - input2) + margin, 0.0), reduction, "margin_ranking_loss"
    )


@implements(F.cosine_embedding_loss, only=True, name="cosine_embedding_loss", scalars=("margin",))
def cosine_embedding_loss(
    input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"
):
    """1 − cos(x₁, x₂) where t = 1, max(0, cos(x₁, x₂) − margin) where t = −1; rows (n, d), or one pair (d,)."""
    reduction = named_reduction(reduction, size_average, reduce, "cosine_embedding_loss")
    eps, dim = 1e-12, target.ndim
    product = (input1 * input2).sum(dim)
    sizes = ((input1 * input1).sum(dim) + eps) * ((input2 * input2).sum(dim) + eps)
    cosine = product / torch.sqrt(sizes)
    same = torch.where(raw(target) == 1, 1 - cosine, 0.0)
    other = torch.where(raw(target) == -1, torch.clamp_min(cosine - margin, 0.0), 0.0)
    return reduced(same + other, reduction, "cosine_embedding_loss")


@implements(F.multi_margin_loss, scalars=("margin",))
def multi_margin_loss(
    x, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Σ_{i ≠ t} w[t] max(0, margin − x[t] + x[i])ᵖ / classes; x (n, classes) or (classes,), p 1 or 2."""
    reduction = named_reduction(reduction, size_average, reduce, "multi_margin_loss")
    if p not in (1, 2):
        raise ValueError("multi_margin_loss: only p == 1 and p == 2 supported")
    rows = x if x.ndim == 2 else x.reshape((1, -1))
    labels = raw(target).reshape(-1)
    if labels.shape[0] != rows.shape[0]:
        raise RuntimeError(
            f"multi_margin_loss: inconsistent target size, expected {rows.shape[0]} but got {list(target.shape)}"
        )
    expect_class_weights(weight, rows.shape[1], "multi_margin_loss")
    column = labels.unsqueeze(1)
    short = torch.clamp_min(margin - torch.gather(rows, 1, column) + rows, 0.0)
    short = short if p == 1 else short * short
    if weight is not None:
        short = short * weight[labels].unsqueeze(1)
    own = torch.arange(rows.shape[1], device=x.device) == column
    losses = torch.where(own, 0.0, short).sum(1) / rows.shape[1]
    alone = x.ndim < 2 and target.ndim == 0
    return reduced(losses.squeeze(0) if alone else losses, reduction, "multi_margin_loss")


@implements(F.multilabel_margin_loss)
def multilabel_margin_loss(x, target, size_average=None, reduce=None, reduction="mean"):
    """Σ_{t in targets} Σ_{i not in targets} max(0, 1 − x[t] + x[i]) / classes; x and target (n, classes) or (classes,).

    The targets of a row are its entries before the first −1.
    """
    reduction = named_reduction(reduction, size_average, reduce, "multilabel_margin_loss")
    if tuple(target.shape) != tuple(x.shape):
        raise RuntimeError(
            f"multilabel_margin_loss: inconsistent target size: {list(target.shape)} for input of size: {list(x.shape)}"
        )
    classes = x.shape[-1] if x.ndim else 1
    rows, labels = x.reshape((-1, classes)), raw(target).reshape(-1, classes)
    counts = (labels >= 0).long().cumprod(1).bool()  # before the first −1
    places = torch.where(counts, labels, 0)
    wanted = torch.zeros_like(counts).scatter_add(1, places, counts)
    short = torch.clamp_min(1 - torch.gather(rows, 1, places).unsqueeze(2) + rows.unsqueeze(1), 0.0)
    pairs = counts.unsqueeze(2) & ~wanted.unsqueeze(1)
    losses = torch.where(pairs, short, 0.0).sum((1, 2)) / classes
    return reduced(losses if x.ndim == 2 else losses.squeeze(0), reduction, "multilabel_margin_loss")


@implements(F.multilabel_soft_margin_loss)
def multilabel_soft_margin_loss(x, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """−w (t log σ(x) + (1 − t) log σ(−x)), averaged over classes, the last dim."""
    reduction = named_reduction(reduction, size_average, reduce, "multilabel_soft_margin_loss")
    losses = -(target * F.logsigmoid(x) + (1 - target) * F.logsigmoid(-x))
    losses = losses if weight is None else losses * weight
    return reduced(losses.mean(-1), reduction, "multilabel_soft_margin_loss")


# --- triplets ------------------------------------------------------------------------------------------------


def _triplet(
    name: str, anchor: Any, positive: Any, negative: Any, distance: Any, margin: float, swap: bool
) -> Any:
    if margin <= 0:
        raise ValueError(f"{name}: margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise RuntimeError(
            f"{name}: The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
            f"but got: anchor {anchor.ndim}D, positive {positive.ndim}D, and negative {negative.ndim}D inputs"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = torch.minimum(far, distance(positive, negative))
    return torch.clamp_min(margin + near - far, 0.0)


@implements(F.triplet_margin_loss, only=True, name="triplet_margin_loss", scalars=("margin", "p", "eps"))
def triplet_margin_loss(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2.0,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """max(0, margin + ‖a − p‖ₚ − ‖a − n‖ₚ); swap: min(‖a − n‖, ‖p − n‖) for the last. Balntas et al., BMVC 2016."""
    reduction = named_reduction(reduction, size_average, reduce, "triplet_margin_loss")

    def distance(x: Any, y: Any) -> Any:
        return pairwise_distance(x, y, p, eps)

    losses = _triplet("triplet_margin_loss", anchor, positive, negative, distance, margin, swap)
    return reduced(losses, reduction, "triplet_margin_loss")


@implements(F.triplet_margin_with_distance_loss, scalars=("margin",))
def triplet_margin_with_distance_loss(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """triplet_margin_loss with a distance of your own, made of torch functions."""
    name = "triplet_margin_with_distance_loss"
    distance = pairwise_distance if distance_function is None else distance_function
    return reduced(_triplet(name, anchor, positive, negative, distance, margin, swap), reduction, name)
