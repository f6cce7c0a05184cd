"""A model that is conditioned on a vector: features are scaled and shifted by what the vector says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from meta.learner import seed_of
from meta.patterns import expect_patterns, matching
from neo import LiteTensor
from neo.nn import Module, init
from neo.typing import Params

__all__ = ["CONTEXT", "Conditioned"]

CONTEXT = "context"
FILM = "film."  # in front of what a layer is scaled and shifted by
DEFAULTS = ("norm2", "linear0")  # Conv4's third block, MLP's first layer: where CAVIA's paper has them


class Conditioned(Module):
    """Any model, with a context φ (a vector) that acts on the outputs of some of its layers.

    h ← (1 + W_γ φ) ∘ h + W_β φ,  channel by channel, before whatever nonlinearity follows      (FiLM)
    h ← h + W_β φ                 for a linear layer, as if φ were concatenated to its input

    Perez et al. 2018, arXiv:1709.07871, for FiLM. Both are linear in a layer's own weight and bias, and are done to
    these: the layer runs as it is, by whatever kernel, in whatever kind of module. With φ = 0 the model is as it was.

    Args:
        model: parameters by name; `layer` stands for `layer`.weight and `layer`.bias.
        size: entries of φ, ≥ 1.
        at: layers to act on: a pattern of their names, or several, of which every one must match a layer with a bias.
            None: norm2 (the third block of neo.nn.Conv4) or linear0 (the first layer of neo.nn.MLP). A layer without a
            weight of its own (a norm that learns the shift alone) is shifted, not scaled.
    Params: the model's; context (size,), zeros; film.layer.shift (channels, size) and, where it is scaled,
        film.layer.scale.
    Raises: ValueError where no layer matches, and where the model has parameters of these names itself.
    """

    def __init__(self, owner: str, model: Module, size: int, at: str | Sequence[str] | None = None) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{owner}: context must be an integer of 1 or more, got {size!r}")
        self.owner, self.model, self.size = owner, model, size
        self.patterns = None if at is None else expect_patterns(owner, "at", at)

    def init(self, seed: int = 0, **options: Any) -> Params:
        params = self.model.init(seed=seed, **options)
        taken = [name for name in params if _is_own(name)]
        if taken:
            raise ValueError(
                f"{self.owner}: the model's parameter {taken[0]!r} has a name of the context's own, {CONTEXT} or "
                f"{FILM}*; rename it, or, if it is the context, set algorithm.context=null."
            )
        generator = torch.Generator().manual_seed(
            seed_of(seed, 0, 0)
        )  # none of the numbers that the model drew
        drawn = {CONTEXT: init.zeros((self.size,))}
        for layer in self._layers(params):
            channels = len(params[f"{layer}.bias"])
            for part in ("shift", "scale") if _is_scaled(params, layer) else ("shift",):
                drawn[f"{FILM}{layer}.{part}"] = init.glorot_uniform((channels, self.size), generator)
        like = next(iter(params.values())).data
        return {**params, **{name: LiteTensor(weight.to(like)) for name, weight in drawn.items()}}

    def __call__(self, params: Params, x: Any) -> Any:
        named: dict[str, Any] = dict(params)
        changed = {name: leaf for name, leaf in named.items() if not _is_own(name)}
        for layer in [name[len(FILM) : -len(".shift")] for name in params if _is_own(name, ".shift")]:
            weight, bias, scale = f"{layer}.weight", f"{layer}.bias", f"{FILM}{layer}.scale"
            if scale in named:
                factor = 1 + named[scale] @ named[CONTEXT]
                changed[weight] = named[weight] * factor.reshape(-1, *[1] * (named[weight].ndim - 1))
                changed[bias] = named[bias] * factor
            changed[bias] = changed[bias] + named[f"{FILM}{layer}.shift"] @ named[CONTEXT]
        return self.model(changed, x)

    def _layers(self, params: Params) -> list[str]:
        layers = [name.removesuffix(".bias") for name in params if name.endswith(".bias")]
        if self.patterns is not None:
            return matching(self.owner, "at", self.patterns, layers)
        for layer in DEFAULTS:
            if layer in layers:
                return [layer]
        choice = (
            f"name one with algorithm.at: {', '.join(layers)}"
            if layers
            else f"it has none with a bias, but {', '.join(params)}; take a model that has, model=mlp say"
        )
        raise ValueError(
            f"{self.owner}: the model has no layer {' or '.join(DEFAULTS)} for the context to act on; {choice}."
        )


def _is_own(name: str, part: str = "") -> bool:
    return (name == CONTEXT and not part) or (name.startswith(FILM) and name.endswith(part))


def _is_scaled(params: Params, layer: str) -> bool:
    weight = params.get(f"{layer}.weight")
    return weight is not None and weight.ndim != 2
