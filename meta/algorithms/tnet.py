"""T-Nets: MAML in a space that is learned layer by layer. Lee and Choi 2018, arXiv:1801.05558."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from meta.algorithms.maml import MAML
from meta.patterns import expect_patterns, matching
from neo import LiteTensor
from neo.nn import Module
from neo.typing import Params

__all__ = ["TNet"]

TRANSFORM = "transform."  # in front of a layer's name: its T


class TNet(MAML):
    """Learn an initialisation θ of weights W, and behind every layer a linear map T that tasks do not touch.

    layer(x) = T (W x + b);  W′ = W − α ∇_W L_support, `inner_steps` times; the meta-gradient goes to W, T  (section 3)

    A step on W is one on T W along T Tᵀ times its gradient: T is a metric that is learned, in which the loss of a new
    task is steep where it matters. T begins at the identity: at MAML.

    Meta-parameters: the model's params, with transform.<layer> (outputs, outputs) for each T.

    Args:
        at: layers to put a T behind: a pattern of their names, or several, of which every one must match; "*": every
            layer with a weight of two modes or more, of which the first is its outputs: linear and convolution.
        adapt, freeze: as MAML has them, of the model's own parameters; no T adapts.
        others: as MAML has them.
    Raises: ValueError naming the argument; at init() where a pattern matches no layer.
    Cost: MAML's, and an (outputs, outputs) matrix times each weight in every pass. T goes into the weight, so that any
        model and its kernels serve.
    """

    def __init__(
        self,
        model: Module,
        *,
        at: str | Sequence[str] = "*",
        freeze: str | Sequence[str] = (),
        **options: Any,
    ):
        frozen = [freeze] if isinstance(freeze, str) else [*freeze]
        super().__init__(Transformed(model, at), freeze=[f"{TRANSFORM}*", *frozen], **options)


class Transformed(Module):
    """A model with a linear map T behind some of its layers, which run with weight T W and bias T b."""

    def __init__(self, model: Module, at: str | Sequence[str]) -> None:
        self.model, self.patterns = model, expect_patterns("TNet", "at", at)

    def init(self, seed: int = 0, **options: Any) -> Params:
        params = self.model.init(seed=seed, **options)
        layers = [name.removesuffix(".weight") for name, leaf in params.items() if _is_layers(name, leaf)]
        if not layers:
            raise ValueError(
                "TNet: the model has no layer whose weight has two modes or more, to put a map behind; its parameters: "
                f"{', '.join(params)}. Take a model of layers, model=mlp say."
            )
        transforms = {}
        for layer in matching("TNet", "at", self.patterns, layers):
            weight = params[f"{layer}.weight"].data
            identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
            transforms[f"{TRANSFORM}{layer}"] = LiteTensor(identity)
        return {**params, **transforms}

    def __call__(self, params: Params, x: Any) -> Any:
        named: dict[str, Any] = dict(params)
        changed = {name: leaf for name, leaf in named.items() if not name.startswith(TRANSFORM)}
        for name in named.keys() - changed.keys():
            layer, transform = name.removeprefix(TRANSFORM), named[name]
            for part in (f"{layer}.weight", f"{layer}.bias"):
                if part in changed:
                    leaf = changed[part]
                    changed[part] = (transform @ leaf.reshape(len(leaf), -1)).reshape(leaf.shape)
        return self.model(changed, x)


def _is_layers(name: str, leaf: Any) -> bool:
    return name.endswith(".weight") and leaf.ndim > 1
