"""Evolution strategies: the gradient of a smoothed function, estimated from its values alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import neo
from meta.learner import seed_of
from meta.problems import constant
from neo import LiteTensor, pytree
from neo.draws import replay
from neo.typing import PyTree

__all__ = ["Smoothing", "generator", "noise_like"]


class Smoothing(NamedTuple):
    """E[fn(θ + σ ε)], ε ~ N(0, I): fn without what is finer than σ, differentiable whatever fn is.

    Its gradient is E[fn(θ + σ ε) ε] / σ, which antithetic pairs estimate without bias from values at θ ± σ εᵢ:

        ĝ = 1/(2 σ n) Σᵢ (fn(θ + σ εᵢ) − fn(θ − σ εᵢ)) εᵢ

    Nesterov and Spokoiny 2017, section 2; Salimans et al. 2017, arXiv:1703.03864. For a quadratic fn with gradient g,
    ĝ is (1/n) Σ εᵢ εᵢᵀ g, whatever σ is: of mean g and variance (‖g‖² + g²) / n entry by entry. The relative error is
    thus about √(entries of θ / n).
    """

    sigma: float  # σ > 0, in units of θ
    pairs: int  # n ≥ 1
    vectorized: bool = False  # all 2 n values in one call of each kernel (neo.vmap): for small nets

    def gradient(
        self, fn: Callable[[PyTree], Any], params: PyTree, generator: torch.Generator
    ) -> tuple[PyTree, Any]:
        """ĝ like params, and the values (2 pairs,) at θ + σ εᵢ, then at θ − σ εᵢ.

        What fn draws at random by neo.nn.draws is the same at both points of a pair, so that it does not count as a
        difference; with vectorized, the same at all points.

        Args:
            fn: params → scalar.
            generator: on the device of params; draws the noise, pair by pair.
        Cost: 2 n values; with vectorized the memory of all, and 3 n times the parameters.
        """
        if self.vectorized:
            drawn = [noise_like(params, generator) for _ in range(self.pairs)]
            noise = pytree.tree_map(lambda *leaves: torch.stack(leaves), *drawn)
            points = self.moved(params, pytree.tree_map(lambda leaf: torch.cat([leaf, -leaf]), noise))
            values = neo.vmap(fn, randomness="same")(points)
            weights = (values[: self.pairs] - values[self.pairs :]) * self._scale
            return pytree.tree_map(
                lambda leaf: torch.tensordot(weights.to(leaf.dtype), leaf, 1), noise
            ), values
        up, down = [], []
        found: Any = None
        for _ in range(self.pairs):
            noise = noise_like(params, generator)
            again = replay()
            up.append(fn(self.moved(params, noise)))
            with again:
                down.append(fn(self.moved(params, noise, -1)))
            found = self.with_pair(found, up[-1] - down[-1], noise)
        return found, torch.stack(up + down)

    def moved(self, params: PyTree, noise: PyTree, sign: int = 1) -> PyTree:
        """θ + σ ε, or with sign −1 θ − σ ε."""
        return pytree.tree_map(lambda leaf, eps: leaf + (sign * self.sigma) * eps, params, noise)

    def with_pair(self, found: PyTree, difference: Any, noise: PyTree) -> PyTree:
        """A pair's part of ĝ, fn's difference times its noise, on top of what is found of others; None: of none."""
        weight = difference * self._scale
        part: PyTree = pytree.tree_map(lambda leaf: weight * leaf, noise)
        return part if found is None else pytree.tree_map(lambda one, other: one + other, found, part)

    @property
    def _scale(self) -> float:
        return 1 / (2 * self.sigma * self.pairs)


def noise_like(params: PyTree, generator: torch.Generator) -> PyTree:
    """A standard normal torch tensor for each leaf, of its shape and dtype, drawn one after the other."""

    def drawn(leaf: LiteTensor) -> torch.Tensor:
        return torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype, device=generator.device)

    noise: PyTree = pytree.tree_map(drawn, params)
    return noise


def generator(params: PyTree, seed: int, stream: int) -> torch.Generator:
    """Of a task's noise, on the device of the parameters; the same for the same seed (a Step's) and stream."""
    device = constant(pytree.leaves(params)[0]).device
    return torch.Generator(device).manual_seed(seed_of(seed, stream, 0))
