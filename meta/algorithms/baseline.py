"""Pre-train on all training classes at once, then fit a head: the baselines of Chen et al. 2019, arXiv:1904.04232."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

import neo
from meta.class_members import class_members
from meta.inner_loop import InnerLoop
from meta.learner import MetaLearner, Predictor, Step, TaskResult, seed_of
from meta.problems import Classification, Problem
from neo import LiteTensor
from neo.nn import Linear, Module
from neo.optim import Optimizer
from neo.typing import PyTree
from tasks import Batch

__all__ = ["Baseline"]

CLASSIFIERS, STARTS = ("cosine", "linear"), ("random", "centroids")


class Baseline(MetaLearner):
    """Learn features f by telling all training classes apart, and on a new task a head alone, f held fixed.

    minimise over (f, W)  the cross-entropy of logits(W, f(x)) over all training classes   (pre-training, section 3.2)
    W′ ← W′ − α ∇ of the same of W′, a head of the task's classes, on the support set     (fine-tuning)
    logits_k(W, z) = τ cos(w_k, z)  (cosine: Baseline++),  or  w_k · z + b_k  (linear: Baseline)

    From centroids, without a step, it is the nearest class mean in f (by cosine, or by distance); with steps, imprinted
    weights that are fine-tuned (Qi et al. 2018, arXiv:1712.07136).

    Pre-training takes the images of a task, support and query alike, with the classes that they are of in the training
    set, for one batch: task.shots and task.queries say how many of each, and task.ways how many classes. What
    train/loss and train/accuracy say is of that, over all training classes; validation and test are of few-shot tasks.

    Meta-parameters: {"params": f's, "classifier": {"weight": W (training_classes, features)}}, with "bias" if linear.

    Args:
        training_classes: how many there are, ≥ 2: the sampler's `classes`. A run's configuration leaves it out.
        features: how many the model gives of an example, ≥ 1.
        classifier: "cosine" or "linear".
        scale: τ > 0 of cosine; the authors' code has 10 for many classes, and 2 for up to 200, as in fine-tuning.
        start: of W′: "random" (uniform in ±1/√features, drawn from step.seed; the paper's), or "centroids", the class
            means of the support set.
        inner_lr, inner_steps, inner_clip, inner_optimizer: of fine-tuning, as meta.InnerLoop has them. The authors'
            code takes 100 epochs in batches of 4 by SGD (rate 0.01, momentum and dampening 0.9, weight decay 0.001);
            here every step is on the whole support set, and the norms of weights are not learned.
        model: its outputs, flattened, are the features, as neo.nn.Conv4(ways=None) has them.
        problem: losses and score of logits; cross-entropy by default.
    Raises: ValueError naming the argument; in task_gradient() for a task that does not say which classes it has; in
        adapt() for labels that are no class numbers, or a class without an example.
    Cost: one forward and backward pass of a task's images in training, and training_classes * features numbers more to
        learn. The features of a support set are computed once, whatever the number of steps.
    """

    def __init__(
        self,
        model: Module,
        *,
        training_classes: int,
        features: int = 64,
        classifier: str = "cosine",
        scale: float = 10.0,
        start: str = "random",
        inner_lr: float | None = None,
        inner_steps: int = 100,
        inner_clip: float | None = None,
        inner_optimizer: Optimizer | None = None,
        problem: Problem | None = None,
    ):
        for name, given, known in (("classifier", classifier, CLASSIFIERS), ("start", start, STARTS)):
            if given not in known:
                raise ValueError(f"Baseline: {name} must be one of {', '.join(known)}; got {given!r}")
        for name, count, least in (("training_classes", training_classes, 2), ("features", features, 1)):
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise ValueError(f"Baseline: {name} must be an integer of {least} or more, got {count!r}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"Baseline: scale must be a finite number greater than 0, got {scale}")
        self.model, self.problem = model, problem or Classification()
        self.width, self.classifier, self.scale, self.start = features, classifier, float(scale), start
        self.training_classes = training_classes
        self.inner = InnerLoop(
            "Baseline",
            steps=inner_steps,
            lr=inner_lr,
            optimizer=inner_optimizer,
            clip=inner_clip,
            default_lr=0.01,
        )

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        # By another seed than the model, or its weights would be made of the same draws.
        layer = Linear(self.width, self.training_classes, bias=self.classifier == "linear")
        classifier = layer.init(seed=seed_of(seed, 0, 0), device=device)
        return {"params": self.model.init(seed=seed, device=device), "classifier": classifier}

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        both: Any = params
        members = class_members("Baseline", support.y)
        features = self.features(both["params"], support.x)

        def support_loss(head: PyTree, support: Any) -> Any:
            return self.problem.support_loss(lambda x: self.logits(head, features), support)

        start = self._start(features, members.to(features.dtype), step)
        head = self.inner.iterates(support_loss, start, support, steps=step.inner_steps).end()
        # No trajectory: it would have every query's features computed again for each of a hundred steps.
        return Predictor(lambda x: self.logits(head, self.features(both["params"], x)), head)

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        classes = getattr(task, "classes", None)
        if classes is None:
            raise ValueError(
                "Baseline: it is trained on all training classes at once, and the task does not say which of them it "
                "has (Task.classes is None); take tasks of a sampler that does, as tasks.EpisodeSampler."
            )
        x = torch.cat([task.support.x, task.query.x])
        batch = Batch(x, torch.cat([classes[task.support.y], classes[task.query.y]]))

        def loss_over_all_classes(params: PyTree) -> tuple[Any, Any]:
            both: Any = params

            def predict(x: Any) -> Any:
                return self.logits(both["classifier"], self.features(both["params"], x))

            return self.problem.query_loss(predict, batch)

        (loss, score), gradient = neo.value_and_grad(loss_over_all_classes, argnums=0, has_aux=True)(params)
        return TaskResult(gradient, loss, score)

    def features(self, params: PyTree, x: Any) -> Any:
        """(examples, features)."""
        found = self.model(params, x).flatten(1)
        if found.shape[1] != self.width:
            raise ValueError(
                f"Baseline: the model gives {found.shape[1]} features of an example, and algorithm.features is "
                f"{self.width}; set algorithm.features={found.shape[1]}."
            )
        return found

    def logits(self, head: PyTree, features: Any) -> Any:
        """(examples, classes) of a classifier or a head."""
        layer: Any = head
        if self.classifier == "linear":
            return F.linear(features, layer["weight"], layer["bias"])
        return self.scale * (F.normalize(features, dim=1) @ F.normalize(layer["weight"], dim=1).T)

    def _random(self, classes: int, seed: int, like: torch.Tensor) -> PyTree:
        """A head as torch.nn.Linear begins, of whose size the authors' inner rate is; the bias at 0."""
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(self.width)
        weight = torch.empty(classes, self.width).uniform_(-bound, bound, generator=generator)
        drawn = {"weight": weight, "bias": torch.zeros(classes)}
        names = ("weight", "bias") if self.classifier == "linear" else ("weight",)
        return {name: LiteTensor(drawn[name], dtype=like.dtype, device=like.device) for name in names}

    def _start(self, features: Any, members: torch.Tensor, step: Step) -> PyTree:
        """The head before its first step."""
        if self.start == "random":
            return self._random(len(members), step.seed, members)
        centroids = (members / members.sum(1, keepdim=True)) @ features
        if self.classifier == "cosine":
            return {"weight": centroids}
        # −‖z − c‖² = 2 c·z − ‖c‖², but for ‖z‖², which is the same for all classes
        return {"weight": 2 * centroids, "bias": -(centroids**2).sum(1)}
