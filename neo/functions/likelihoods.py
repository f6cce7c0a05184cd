"""Losses that are negative log-likelihoods of a distribution: Gaussian, Poisson; and of an alignment (CTC)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from neo.functions.losses import named_reduction, reduced
from neo.functions.registry import implements, raw
from neo.guards import require


@implements(F.gaussian_nll_loss)
def gaussian_nll_loss(x, target, var, full=False, eps=1e-6, reduction="mean"):
    """(log v + (x − t)² / v) / 2, v = max(var, eps); full adds log(2π) / 2.

    As in torch, the bound eps is none to the gradient: v is differentiated as var. Nix and Weigend 1994.
    """
    name = "gaussian_nll_loss"
    if isinstance(var, float):
        var = torch.full_like(x, var)
    require(~(raw(var) < 0).any(), lambda: ValueError(f"{name}: var has negative entry/entries"))
    if tuple(var.shape) != tuple(x.shape):
        if tuple(x.shape[:-1]) == tuple(var.shape):
            var = var.unsqueeze(-1)
        elif x.ndim != var.ndim or sum(m for n, m in zip(x.shape, var.shape, strict=True) if n != m) != 1:
            raise ValueError(
                f"{name}: var is of incorrect size, {tuple(var.shape)} for x of {tuple(x.shape)}"
            )
    raised = raw(var).clamp(min=eps) - raw(var)  # a constant
    var = var + raised
    losses = (torch.log(var) + (x - target) ** 2 / var) * 0.5
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction, name)


@implements(F.poisson_nll_loss, only=True, name="poisson_nll_loss", scalars=("eps",))
def poisson_nll_loss(
    x,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """eˣ − t x, or x − t log(x + eps) without log_input; full adds Stirling's log t! where t > 1."""
    name = "poisson_nll_loss"
    reduction = named_reduction(reduction, size_average, reduce, name)
    losses = torch.exp(x) - target * x if log_input else x - target * torch.log(x + eps)
    if full:
        large = raw(target) > 1
        counts = torch.where(large, target, 2.0)  # any number whose logarithm is one
        stirling = counts * torch.log(counts) - counts + torch.log(counts * (2 * math.pi)) * 0.5
        losses = losses + torch.where(large, stirling, 0.0)
    return reduced(losses, reduction, name)


@implements(F.linear_cross_entropy, scalars=("label_smoothing",))
def linear_cross_entropy(
    x,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """cross_entropy(x Wᵀ + b, target); x (n, in) or (in,), W (classes, *space, in), b (classes, *space).

    options say how torch would cut the batch to save memory; the numbers are the same, and Neo takes it whole.
    """
    name = "linear_cross_entropy"
    if x.ndim not in (1, 2):
        raise RuntimeError(f"{name}: expected input with dimensionality 1 or 2, got {x.ndim}")
    if linear_weight.ndim < 2 or linear_weight.shape[-1] != x.shape[-1]:
        raise RuntimeError(
            f"{name}: expected a linear_weight (classes, ..., {x.shape[-1]}), got {tuple(linear_weight.shape)}"
        )
    classes = tuple(linear_weight.shape[:-1])
    if x.ndim == 1 and len(classes) > 1:
        raise RuntimeError(
            f"{name}: K-dimensional loss defined by linear_weight shape {tuple(linear_weight.shape)} requires batched "
            f"input, got {tuple(x.shape)}"
        )
    if ignore_index is not None and tuple(target.shape) == (*x.shape[:-1], *classes):
        raise RuntimeError(f"{name}: ignore_index cannot be specified when target contains probabilities")
    scores = torch.matmul(x, linear_weight.reshape((-1, x.shape[-1])).t())
    scores = scores.reshape((*x.shape[:-1], *classes))
    if linear_bias is not None:
        scores = scores + linear_bias
    ignored = -100 if ignore_index is None else ignore_index
    return F.cross_entropy(
        scores, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


# --- connectionist temporal classification -------------------------------------------------------------------


@implements(F.ctc_loss, only=True, name="ctc_loss")
def ctc_loss(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """−log of the probability of all alignments of a target with log_probs (time, n, classes) or (time, classes).

    The forward recursion in logarithms over time, differentiated as it stands, so right at every order. As in torch,
    exp(log_probs) is taken to sum to one over classes and to stay so: the gradient has a further exp(log_probs), which
    goes through log_softmax as nothing, and which differences at log_probs themselves do not show.
    targets: (n, longest) or all of them one after the other. "mean": each loss over its target length, then the mean.
    zero_infinity: an impossible target costs 0, with gradient 0. Graves et al. 2006, equations 6 to 8.
    Cost: a few ops a time step.
    """
    name = "ctc_loss"
    batched = log_probs.ndim == 3
    scores = log_probs if batched else log_probs.unsqueeze(1)
    time, n, classes = scores.shape
    device = scores.device
    frames, lengths = (_lengths(v, n, name) for v in (input_lengths, target_lengths))
    if min(frames, default=1) < 1:
        raise NotImplementedError(f"{name}: an input of length 0 has no Policy; leave it out of the batch")
    labels = _padded(raw(targets), lengths, n).to(device)
    require(
        ((labels >= 0) & (labels < classes)).all(),
        lambda: RuntimeError(f"{name}: targets must lie in [0, {classes})"),
    )
    ends, spans = torch.tensor(lengths, device=device), torch.tensor(frames, device=device)
    alphas = _forward_scores(scores, labels, ends, blank)
    last = alphas[spans - 1, torch.arange(n, device=device)]
    final = torch.gather(last, 1, (2 * ends).unsqueeze(1)).squeeze(1)
    before = torch.gather(last, 1, (2 * ends - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    losses = -_log_sum(final, torch.where(ends > 0, before, -math.inf))
    mass = torch.exp(scores).sum(2)
    within = torch.arange(time, device=device).unsqueeze(1) < spans
    losses = losses + torch.where(within, mass - raw(mass), 0.0).sum(0)  # 0, with torch's further gradient
    if zero_infinity:
        losses = torch.where(torch.isinf(raw(losses)), 0.0, losses)
    if reduction == "mean":
        return (losses / ends.clamp(min=1)).mean()
    if reduction == "sum":
        return losses.sum()
    return losses if batched else losses.squeeze(0)


def _forward_scores(scores: Any, labels: torch.Tensor, ends: torch.Tensor, blank: int) -> Any:
    """log α of all ways to be at each place of blank, label, blank, ..., blank at each time; (time, n, places)."""
    n, longest = labels.shape
    places = torch.full((n, 2 * longest + 1), blank, dtype=torch.long, device=scores.device)
    places[:, 1::2] = labels
    jump = torch.zeros_like(
        places, dtype=torch.bool
    )  # from two places before: over a blank, to another label
    jump[:, 2:] = (places[:, 2:] != blank) & (places[:, 2:] != places[:, :-2])
    emitted = torch.gather(scores, 2, places.unsqueeze(0).expand((scores.shape[0], *places.shape)))
    number = torch.arange(places.shape[1], device=scores.device)
    alphas = [torch.where((number < 2) & (number <= 2 * ends.unsqueeze(1)), emitted[0], -math.inf)]
    for now in torch.unbind(emitted)[1:]:
        stay = alphas[-1]
        step = F.pad(stay[:, :-1], (1, 0), value=-math.inf)
        over = torch.where(jump, F.pad(stay[:, :-2], (2, 0), value=-math.inf), -math.inf)
        alphas.append(now + _log_sum(stay, step, over))
    return torch.stack(alphas)


def _log_sum(*terms: Any) -> Any:
    """log Σ eˣ of tensors entry by entry; −∞, with gradient zero, where all of them are."""
    stacked = torch.stack(terms)
    nothing = (raw(stacked) == -math.inf).all(0)
    safe = torch.logsumexp(torch.where(nothing, 0.0, stacked), 0)
    return torch.where(nothing, -math.inf, safe)


def _lengths(value: Any, n: int, name: str) -> list[int]:
    lengths = raw(value)
    lengths = lengths.reshape(-1).tolist() if isinstance(lengths, torch.Tensor) else [int(v) for v in lengths]
    if len(lengths) != n:
        raise RuntimeError(f"{name}: expected {n} lengths, one a sequence, got {len(lengths)}")
    return lengths


def _padded(targets: torch.Tensor, lengths: list[int], n: int) -> torch.Tensor:
    """Targets (n, longest), what lies beyond a length set to 0; at least one column."""
    longest = max([1, *lengths])
    out = torch.zeros(n, longest, dtype=torch.long, device=targets.device)
    start = 0
    for i, length in enumerate(lengths):
        out[i, :length] = targets[i, :length] if targets.ndim == 2 else targets[start : start + length]
        start += length
    return out
