"""Low-rank adapters: any model, with a learned correction of low rank to some of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.nn import init
from neo.nn.module import Module
from neo.typing import Params

__all__ = ["LoRA"]

A, B = ".lora_a", ".lora_b"  # behind the name of the weight that they correct
MOST_NAMES = 20  # that an error lists


class LoRA(Module):
    """Any model, with W + (alpha / rank) B A in the place of some of its weights W.

    Hu et al. 2021, arXiv:2106.09685, section 4.1. B begins at zero, so that the model begins as the one it wraps.

        model = neo.nn.LoRA(model, layers="*attn*weight", rank=4)
        learner = MAML(model, adapt="*.lora_*")  # the inner loop adapts A and B; the outer loop learns W, A and B

    Args:
        model: any Module with parameters by name.
        layers: which weights: a pattern of their names as a shell has it, or several. Of what a pattern matches, those
            of two dimensions or more are meant; a kernel (out, in, height, width) counts as a matrix (out, the rest).
        rank: rows of A and columns of B, ≥ 1, at most the smaller side of every matrix.
        alpha: a finite number; corrections are scaled by alpha / rank, so that a rate serves several ranks.
    Params: the model's; for each weight `name`, name.lora_a (rank, in), U(−1/√in, 1/√in), and name.lora_b (out, rank),
        zeros, in the dtype and on the device of the weight. A torch module's parameters without requires_grad are
        constants in neo.nn.TorchModel.state, and take no adapter.
    Raises: ValueError naming the argument; at init() for a pattern without a match of two dimensions, for a rank that
        is too large, and for a model that has such names itself. KeyError, at a call, for an adapter that is not whole.
    Cost: a call, and so each inner step, forms B A for each weight, rank·out·in multiply-adds, and keeps one more
        tensor of the weight's size on the tape; in return any layer and its kernels serve. A gradient step on the
        adapters still computes the gradient of W, which that of A and B is a product of.
    """

    def __init__(
        self, model: Module, layers: str | Sequence[str], *, rank: int = 8, alpha: float = 8.0
    ) -> None:
        patterns = (layers,) if isinstance(layers, str) else layers
        if (
            not isinstance(patterns, Sequence)
            or not patterns
            or not all(isinstance(one, str) for one in patterns)
        ):
            raise ValueError(
                f"LoRA: layers={layers!r} must be a pattern of the names of weights, or a list of one or more: "
                '"*attn*weight", ["conv*.weight", "head.weight"].'
            )
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"LoRA: rank must be an integer of 1 or more, got {rank!r}")
        if not math.isfinite(alpha):
            raise ValueError(f"LoRA: alpha must be a finite number, got {alpha}")
        self.model, self.layers, self.rank, self.alpha = model, tuple(patterns), rank, alpha

    def init(self, seed: int = 0, **options: Any) -> Params:
        params: Any = self.model.init(seed=seed, **options)
        # A seed of their own: under the model's, A would hold the numbers that its first weight was drawn from.
        generator = torch.Generator().manual_seed(seed)
        generator.manual_seed(int(torch.randint(2**62, (), generator=generator, device="cpu")))
        return {
            **params,
            **{
                key: LiteTensor(adapter, dtype=params[name].dtype, device=params[name].device)
                for name in self._chosen(params)
                for key, adapter in self._adapter(name, params[name].shape, generator).items()
            },
        }

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = self.model.draw(generator)
        adapters = (self._adapter(name, weights[name].shape, generator) for name in self._chosen(weights))
        return {**weights, **{key: tensor for pair in adapters for key, tensor in pair.items()}}

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        return self.model(self.merge(params), *args, **kwargs)

    def merge(self, params: Params) -> Params:
        """The params of the wrapped model that give the same function: W + (alpha / rank) B A under W's name."""
        merged: dict[str, Any] = dict(params)
        for name in dict.fromkeys(key[: -len(A)] for key in params if key.endswith((A, B))):
            missing = [key for key in (name, name + A, name + B) if key not in merged]
            if missing:
                raise KeyError(
                    f"LoRA: params lack {missing[0]!r}; {name!r} is corrected by {name + A!r} and {name + B!r}"
                )
            weight, a, b = merged[name], merged.pop(name + A), merged.pop(name + B)
            merged[name] = weight + ((self.alpha / self.rank * b) @ a).reshape(weight.shape)
        return merged

    def _adapter(self, name: str, shape: torch.Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows, columns = shape[0], math.prod(shape[1:])
        a = init.uniform((self.rank, columns), 1 / math.sqrt(columns), generator)
        return {name + A: a, name + B: init.zeros((rows, self.rank))}

    def _chosen(self, weights: Mapping[str, Any]) -> list[str]:
        """Names of the weights to adapt, in the model's order."""
        taken = [name for name in weights if name.endswith((A, B))]
        if taken:
            raise ValueError(
                f"LoRA: the model's parameter {taken[0]!r} has the name of an adapter; give one LoRA all the layers."
            )
        matrices = [name for name, weight in weights.items() if weight.ndim > 1]
        for pattern in self.layers:
            matched = [name for name in weights if fnmatchcase(name, pattern)]
            if not set(matched) & set(matrices):
                shape = tuple(weights[matched[0]].shape) if matched else ()
                found = f"{matched[0]!r} of shape {shape}, no matrix" if matched else "no parameter"
                listed = ", ".join(matrices[:MOST_NAMES]) + ", ..." * (len(matrices) > MOST_NAMES)
                raise ValueError(
                    f"LoRA: layers={pattern!r} matches {found}; it must be a pattern of the names of weights of "
                    f"two dimensions or more: {listed}."
                )
        chosen = [name for name in matrices if any(fnmatchcase(name, one) for one in self.layers)]
        for name in chosen:
            shape = tuple(weights[name].shape)
            most = min(shape[0], math.prod(shape[1:]))
            if self.rank > most:
                raise ValueError(
                    f"LoRA: rank={self.rank} is more than {name!r} of shape {shape} can have, {most}; set rank to "
                    f"{most} or less, or leave it out of layers."
                )
        return chosen
