"""Optimisers that are learned. Andrychowicz et al. 2016, arXiv:1606.04474; Metz et al. 2019, arXiv:1810.10180."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch

import neo
from meta.algorithms.training_rule import TrainingRule
from meta.inner_loop import Iterates
from meta.learner import Step, TaskResult
from neo import LiteTensor, pytree
from neo.nn import LSTM, MLP, Linear, Module
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["LearnedOptimizer"]


class LearnedOptimizer(TrainingRule):
    """Learn the function from gradients to updates by which a model is trained.

    θ ← θ + u(∇L_support(θ), memory; φ), `inner_steps` times;  minimise over φ  mean over k of L_query(θ_k)
    (Andrychowicz et al., equations 2 and 3, all weights equal)

    Every coordinate of θ has the same u and a memory of its own. With meta_gradient="first_order" gradients are
    constants to the meta-gradient, which still goes through updates and memories: what both papers do.

    Meta-parameters: u's weights; of rule="adam" its rate's logarithm, "log_rate".

    Args:
        rule: what u is: "lstm" (Andrychowicz et al.), "mlp" (of momenta, after Metz et al.), or "adam": by hand, its
            rate alone learned, to compare with.
        scale: of the updates that an untrained u makes, > 0, in units of θ; of rule="adam" the rate to begin with.
        others: as TrainingRule has them; without inner_lr.
    Cost: "lstm" some thirty small kernels an inner step, whatever the model, and "mlp" about twenty.
    """

    def __init__(
        self,
        model: Module,
        *,
        rule: str = "lstm",
        scale: float = 0.1,
        inner_steps: int = 20,
        **options: Any,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"LearnedOptimizer: rule must be one of {', '.join(RULES)}, got {rule!r}")
        if not 0 < scale < math.inf:
            raise ValueError(f"LearnedOptimizer: scale must be finite and above 0, got {scale}")
        if options.get("inner_lr") is not None or options.get("inner_optimizer") is not None:
            raise ValueError(
                "LearnedOptimizer: its inner optimiser is the rule; leave inner_lr and inner_optimizer out"
            )
        super().__init__(model, inner_steps=inner_steps, **options)
        self.rule = RULES[rule](scale)

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        return self.rule.init(seed, device)

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        return self.inner.iterates(
            self.support_loss,
            self.start(params, step),
            support,
            steps=step.inner_steps,
            estimator=self.estimator,
            optimizer=self.rule.optimizer(params),
            **options,
        )

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        def mean_loss(params: PyTree) -> tuple[Any, Any]:
            _, *trained = self.adapt(params, task.support, step).trajectory or ()
            found = [self.problem.query_loss(predict, task.query) for predict in trained]
            return torch.stack([loss for loss, _ in found]).mean(), found[-1]

        found = self.estimator.estimate(mean_loss, params, step)
        loss, score = found.aux
        return TaskResult(
            found.gradient, loss, score, metrics={**found.metrics, "loss_of_all_steps": found.value}
        )


class Rule(Protocol):
    """From meta-parameters to an optimiser."""

    def init(self, seed: int, device: str | torch.device) -> PyTree: ...

    def optimizer(self, params: Any) -> Optimizer: ...


class Adam:
    """neo.optim.adam, whose rate is learned."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def init(self, seed: int, device: str | torch.device) -> PyTree:
        return {"log_rate": LiteTensor(torch.tensor(math.log(self.scale), device=device))}

    def optimizer(self, params: Any) -> Optimizer:
        return neo.optim.adam(torch.exp(params["log_rate"]))


class CoordinateLSTM:
    """Two layers of 20 units for each coordinate, of the gradient's logarithm and sign. Section 2.1, appendix A.

    (log |g| / p, sign g) where |g| ≥ e⁻ᵖ, else (−1, eᵖ g), p = 10; the update is `scale` times a linear output.
    """

    UNITS, LAYERS, P = 20, 2, 10.0

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.lstm, self.output = LSTM(2, self.UNITS, self.LAYERS), Linear(self.UNITS, 1)

    def init(self, seed: int, device: str | torch.device) -> PyTree:
        return {
            "lstm": self.lstm.init(seed=seed, device=device),
            "output": self.output.init(seed=seed, device=device),
        }

    def optimizer(self, params: Any) -> Optimizer:
        def init(theta: PyTree) -> Any:
            vector = joined(theta)
            zeros = torch.zeros(
                (self.LAYERS, len(vector), self.UNITS), dtype=vector.dtype, device=vector.device
            )
            return zeros, zeros

        def step(theta: PyTree, grads: PyTree, state: Any) -> tuple[PyTree, Any]:
            hidden, state = self.lstm(params["lstm"], self.features(joined(grads))[:, None], state)
            return added(theta, self.scale * self.output(params["output"], hidden[:, 0])[:, 0]), state

        return Optimizer(init, step)

    def features(self, g: Any) -> Any:
        """(coordinates,) → (coordinates, 2)."""
        large = g.abs() >= math.exp(-self.P)
        logarithm = torch.log(torch.where(large, g.abs(), torch.ones_like(g))) / self.P
        first = torch.where(large, logarithm, -torch.ones_like(g))
        return torch.stack([first, torch.where(large, torch.sign(g), math.exp(self.P) * g)], 1)


class Moments(NamedTuple):
    """What CoordinateMLP remembers."""

    steps: int  # taken so far
    means: Any  # (coordinates, decays), running means of the gradient
    square: Any  # (coordinates,), of its square


class CoordinateMLP:
    """Two layers of 32 units for each coordinate, of momenta at several time scales: direction and size of the update.

    u = scale · d exp(m), (d, m) of the MLP, of g and its running means, over the root of the running mean of g²; and of
    tanh(k / t) for several t, k the steps taken. After Metz et al. 2019, without their features of a tensor.
    """

    DECAYS, SQUARE, TIMES = (0.5, 0.9, 0.99), 0.99, (3.0, 30.0, 300.0)

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.mlp = MLP(1 + len(self.DECAYS) + len(self.TIMES), 32, 32, 2)

    def init(self, seed: int, device: str | torch.device) -> PyTree:
        return self.mlp.init(seed=seed, device=device)

    def optimizer(self, params: Any) -> Optimizer:
        def init(theta: PyTree) -> Moments:
            zeros = torch.zeros_like(joined(theta))
            return Moments(0, torch.stack([zeros] * len(self.DECAYS), 1), zeros)

        def step(theta: PyTree, grads: PyTree, state: Moments) -> tuple[PyTree, Moments]:
            g, k = joined(grads), state.steps + 1
            decays = torch.tensor(self.DECAYS, dtype=g.dtype, device=g.device)
            means = decays * state.means + (1 - decays) * g[:, None]
            square = self.SQUARE * state.square + (1 - self.SQUARE) * g.square()
            # As in Adam, corrected for having begun at 0.
            size = torch.sqrt(square / (1 - self.SQUARE**k) + 1e-16)[:, None]
            momenta = torch.cat([g[:, None], means / (1 - decays**k)], 1) / size
            times = torch.tanh(k / torch.tensor(self.TIMES, dtype=g.dtype, device=g.device))
            features = torch.cat([momenta, times.expand(len(g), -1)], 1)
            out = self.mlp(params, features)
            return added(theta, self.scale * out[:, 0] * torch.exp(out[:, 1])), Moments(k, means, square)

        return Optimizer(init, step)


RULES: dict[str, Any] = {"lstm": CoordinateLSTM, "mlp": CoordinateMLP, "adam": Adam}


def joined(tree: PyTree) -> Any:
    """All coordinates in one vector."""
    leaves: list[Any] = pytree.leaves(tree)
    return torch.cat([leaf.flatten() for leaf in leaves])


def added(tree: PyTree, update: Any) -> PyTree:
    """tree + update, a vector of all its coordinates."""
    leaves: list[Any]
    leaves, structure = pytree.flatten(tree)
    parts = torch.split(update, [leaf.numel() for leaf in leaves])
    found = [leaf + part.reshape(leaf.shape) for leaf, part in zip(leaves, parts, strict=True)]
    return pytree.unflatten(structure, found)
