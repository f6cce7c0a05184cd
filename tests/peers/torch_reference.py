"""The MAML meta-gradient by torch double-backward alone: the reference in any dtype, float64 included.

Also what every reference shares: the type of a task, and how far two gradients are apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.conv4 import Downsample, Readout, conv4_like

Task = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # support x, y, query x, y


def meta_gradient(
    params: dict[str, torch.Tensor],
    tasks: Sequence[Task],
    inner_lr: float,
    inner_steps: int,
    first_order: bool,
    *,
    downsample: Downsample = "stride",
    readout: Readout = "mean",
) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """Gradient of the mean query loss after adaptation, with respect to the parameters before it.

    L(θ) = mean over tasks of ℓ(θ′; query), where θ′ ← θ′ − α ∇ℓ(θ′; support) inner_steps times from θ, and ℓ is the
    mean cross-entropy. Finn et al. 2017, arXiv:1703.03400.

    Args:
        params: of a Conv4, by name (see benchmarks/conv4.py); left unchanged.
        tasks: (support x, support y, query x, query y); x (n, channels, size, size) in the dtype of params, y int64.
        first_order: treat ∇ℓ as constant (FOMAML).
        downsample, readout: of the Conv4.
    Returns: L (a scalar), the gradient by name, and the mean query accuracy after adaptation, in [0, 1].
    """
    model = conv4_like(params, tasks[0][0].shape[-1], downsample, readout)
    primals = {name: param.detach().clone().requires_grad_() for name, param in params.items()}
    losses, accuracies = [], []
    for support_x, support_y, query_x, query_y in tasks:
        adapted = primals
        for _ in range(inner_steps):
            loss = F.cross_entropy(functional_call(model, adapted, (support_x,)), support_y)
            grads = torch.autograd.grad(loss, tuple(adapted.values()), create_graph=not first_order)
            adapted = {
                name: param - inner_lr * grad
                for (name, param), grad in zip(adapted.items(), grads, strict=True)
            }
        logits = functional_call(model, adapted, (query_x,))
        losses.append(F.cross_entropy(logits, query_y))
        accuracies.append((logits.argmax(1) == query_y).double().mean().item())
    meta_loss = torch.stack(losses).mean()
    grads = torch.autograd.grad(meta_loss, tuple(primals.values()))
    return meta_loss.detach(), dict(zip(primals, grads, strict=True)), sum(accuracies) / len(accuracies)


def relative_difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """‖ours − theirs‖ / ‖theirs‖, the Euclidean norms taken over all parameters at once, in float64.

    Not parameter by parameter: the gradient of a bias before batch norm is zero but for rounding.
    Raises: KeyError if the names differ.
    """
    if ours.keys() != theirs.keys():
        raise KeyError(
            f"relative_difference: names must agree, differ in {sorted(ours.keys() ^ theirs.keys())}"
        )
    difference = sum((ours[name].double() - theirs[name].double()).square().sum() for name in theirs)
    norm = sum(theirs[name].double().square().sum() for name in theirs)
    return float((difference / norm).sqrt())
