"""Tasks whose every gradient is known: support loss ½ (θ − c)ᵀ A (θ − c), query loss ½ |θ − q|²."""

from __future__ import annotations

from typing import Any

import torch

from meta.problems import MSE, Supervised
from neo import LiteTensor
from neo.nn import Module
from neo.typing import Params
from tasks import Batch, Task

BODY, HEAD = 2, 3  # entries of θ = (body.theta, head.theta)
SIZE = BODY + HEAD


class Theta(Module):
    """Predicts θ whatever it is shown."""

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        sizes = {"body.theta": BODY, "head.theta": HEAD}
        return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}

    def __call__(self, params: Params, x: Any) -> Any:
        return torch.cat([params["body.theta"], params["head.theta"]])


class Quadratic(Supervised):
    """Losses of θ; y is the centre c in the support set, the target q in the query set, one entry an example."""

    metric = MSE

    def __init__(self, hessian: torch.Tensor) -> None:
        self.hessian = hessian

    def inner_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        difference = prediction - y[:, 0]
        return 0.5 * difference @ self.hessian @ difference

    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        return 0.5 * ((prediction - y[:, 0]) ** 2).sum()

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (prediction - y[:, 0]) ** 2


class Tasks:
    """A few such tasks in float64, with one Hessian A. All numbers are a pure function of seed."""

    def __init__(self, seed: int = 3, tasks: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        self.A = root @ root.T
        self.centres, self.targets = torch.randn(2, tasks, SIZE, generator=generator, dtype=torch.float64)
        self.problem, self.model = Quadratic(self.A), Theta()

    def params(self) -> Params:
        return self.model.init(seed=1, dtype=torch.float64)

    def theta(self) -> torch.Tensor:
        return flat(self.params())

    def batch(self) -> Task:
        def examples(y: torch.Tensor) -> Batch:
            return Batch(torch.zeros_like(y)[..., None], y[..., None])

        return Task(examples(self.centres), examples(self.targets))

    def tasks(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(c, q) of each."""
        return list(zip(self.centres, self.targets, strict=True))


def flat(params: dict[str, LiteTensor]) -> torch.Tensor:
    return torch.cat([params["body.theta"].data, params["head.theta"].data])
