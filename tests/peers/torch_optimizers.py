"""torch.optim's steps as formulas on torch tensors, which torch.autograd differentiates any number of times.

Each: step(params, grads, state) → (params, state) over lists of tensors, state {} at first. test_unrolled_optimizers.py
checks every one against torch.optim itself before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["FORMULAS", "Step"]

Tensors = Sequence[Any]
Step = Callable[[Tensors, Tensors, dict[str, Any]], tuple[list[Any], dict[str, Any]]]


def zeros(params: Tensors) -> list[Any]:
    return [torch.zeros_like(p) for p in params]


def sgd(lr: Any, momentum: Any = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Step:
    def step(params: Tensors, grads: Tensors, state: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        grads = [g + weight_decay * p for p, g in zip(params, grads, strict=True)]
        velocity = [momentum * v + g for v, g in zip(state.get("v") or zeros(params), grads, strict=True)]
        moves = [g + momentum * v for g, v in zip(grads, velocity, strict=True)] if nesterov else velocity
        return [p - lr * m for p, m in zip(params, moves, strict=True)], {"v": velocity}

    return step


def adam(
    lr: Any,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Step:
    def step(params: Tensors, grads: Tensors, state: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        t = state.get("t", 0) + 1
        if decoupled:
            params = [p - lr * weight_decay * p for p in params]
        else:
            grads = [g + weight_decay * p for p, g in zip(params, grads, strict=True)]
        first = state.get("m") or zeros(params)
        second = state.get("v") or zeros(params)
        m = [betas[0] * m + (1 - betas[0]) * g for m, g in zip(first, grads, strict=True)]
        v = [betas[1] * v + (1 - betas[1]) * g**2 for v, g in zip(second, grads, strict=True)]
        moved = [
            p - lr * (a / (1 - betas[0] ** t)) / ((b / (1 - betas[1] ** t)).sqrt() + eps)
            for p, a, b in zip(params, m, v, strict=True)
        ]
        return moved, {"t": t, "m": m, "v": v}

    return step


def adagrad(lr: Any, lr_decay: float = 0.0, weight_decay: float = 0.0, eps: float = 1e-10) -> Step:
    def step(params: Tensors, grads: Tensors, state: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        t = state.get("t", 0)
        grads = [g + weight_decay * p for p, g in zip(params, grads, strict=True)]
        v = [v + g**2 for v, g in zip(state.get("v") or zeros(params), grads, strict=True)]
        rate = lr / (1 + t * lr_decay)
        moved = [p - rate * g / (b.sqrt() + eps) for p, g, b in zip(params, grads, v, strict=True)]
        return moved, {"t": t + 1, "v": v}

    return step


def rmsprop(
    lr: Any, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0, centered: bool = False
) -> Step:
    def step(params: Tensors, grads: Tensors, state: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        before = {name: state.get(name) or zeros(params) for name in ("v", "m", "b")}
        v = [alpha * v + (1 - alpha) * g**2 for v, g in zip(before["v"], grads, strict=True)]
        m = [alpha * m + (1 - alpha) * g for m, g in zip(before["m"], grads, strict=True)]
        spread = [a - b**2 for a, b in zip(v, m, strict=True)] if centered else v
        b = [momentum * b + g / (s.sqrt() + eps) for b, g, s in zip(before["b"], grads, spread, strict=True)]
        return [p - lr * one for p, one in zip(params, b, strict=True)], {"v": v, "m": m, "b": b}

    return step


FORMULAS = {"sgd": sgd, "adam": adam, "adagrad": adagrad, "rmsprop": rmsprop}
