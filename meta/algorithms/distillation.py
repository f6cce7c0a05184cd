"""A few synthetic examples that stand for a data set. Wang, Zhu, Torralba and Efros 2018, arXiv:1811.10959."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

import neo
from meta.algorithms.training_rule import TrainingRule
from meta.class_members import expect_class_numbers
from meta.inner_loop import Iterates
from meta.learner import Step, Unsuited
from neo import LiteTensor
from neo.nn import Module
from neo.typing import PyTree
from tasks import Batch

__all__ = ["Distillation"]


class Distillation(TrainingRule):
    """Learn images, and the rates to train with on them, such that a network trained on them alone knows the real ones.

    θ ← θ − α_k ∇_θ L(θ; x̃, ỹ), `inner_steps` times;  minimise over x̃, log α  L_query(θ)     (Algorithm 1)

    ỹ is fixed: 0, 1, ..., `classes` − 1, `per_class` times. The support set is not looked at.

    Meta-parameters: {"images": x̃ (classes · per_class, *shape), "log_rates": log α (inner_steps,)}.

    Args:
        classes: ≥ 2, the model's outputs.
        shape: of an image, as tasks have it.
        per_class: synthetic images of each class, ≥ 1.
        inner_lr: every α_k to begin with, > 0; an evaluation with more steps goes on with the last.
        others: as TrainingRule has them.
    Raises: ValueError in adapt() for tasks whose inputs are of another shape, and for tasks that are not of classes
        (Unsuited).
    """

    def __init__(
        self,
        model: Module,
        *,
        classes: int = 10,
        shape: Sequence[int] = (1, 28, 28),
        per_class: int = 1,
        inner_lr: float = 0.1,
        inner_steps: int = 10,
        **options: Any,
    ) -> None:
        for name, value, least in (("classes", classes, 2), ("per_class", per_class, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"Distillation: {name} must be an integer of {least} or more, got {value!r}"
                    f"{'; a configuration takes it from task.ways' if name == 'classes' else ''}"
                )
        if not 0 < inner_lr < math.inf:
            raise ValueError(f"Distillation: inner_lr must be finite and above 0, got {inner_lr}")
        super().__init__(model, inner_steps=inner_steps, **options)
        self.classes, self.shape, self.per_class, self.inner_lr = classes, tuple(shape), per_class, inner_lr

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        generator = torch.Generator().manual_seed(seed)
        # About as long as an image of MNIST, so that the first rates are as small as those of real images.
        images = 0.3 * torch.randn(
            self.classes * self.per_class, *self.shape, generator=generator, device="cpu"
        )
        rates = torch.full((max(1, self.inner.steps),), math.log(self.inner_lr), device=device)
        return {"images": LiteTensor(images.to(device)), "log_rates": LiteTensor(rates)}

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        learned: Any = params
        if support is not None:
            expect_class_numbers("Distillation", support)
            if not support.x.is_floating_point():
                raise Unsuited(
                    "Distillation",
                    f"it learns examples by gradient, which inputs of {support.x.dtype} have none of",
                )
        given = self.shape if support is None else tuple(support.x.shape[1:])
        if given != self.shape:
            raise ValueError(
                f"Distillation: the synthetic images are of shape={self.shape}, and the tasks' inputs of {given}; set "
                "algorithm.shape to the latter."
            )
        rates = torch.exp(learned["log_rates"])
        return self.inner.iterates(
            self.support_loss,
            self.start(params, step),
            Batch(learned["images"], self.labels(params)),
            steps=step.inner_steps,
            estimator=self.estimator,
            optimizer=neo.optim.sgd(lambda taken: rates[min(taken, len(rates) - 1)]),
            **options,
        )

    def labels(self, params: PyTree) -> torch.Tensor:
        """ỹ (classes · per_class,) int64, on the device of the images."""
        learned: Any = params
        return torch.arange(self.classes, device=learned["images"].device).repeat(self.per_class)
