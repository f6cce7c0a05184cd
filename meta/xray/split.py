"""One task's exact meta-gradient as a sum: what is left without second derivatives, and what each inner step adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

from meta.estimators import Estimator, Reverse, Truncated
from meta.inner_loop import InnerLoop
from meta.learner import MetaLearner, Step
from neo import pytree
from neo.typing import PyTree

__all__ = ["Split", "Unrolled", "Window", "expect_unrolled", "inner_steps_of", "split", "windows_of"]


@runtime_checkable
class Unrolled(Protocol):
    """A learner whose meta-gradient goes through an inner loop, by an estimator that can be exchanged: as meta.MAML."""

    inner: InnerLoop
    estimator: Estimator

    def with_estimator(self, estimator: Estimator) -> Any: ...


@dataclass(frozen=True)
class Window(Truncated):
    """Truncated, through the inner loop that another estimator goes down, a proximity term for one.

    Args:
        loop: whose inner loss is the one differentiated.
        asked: the lengths of the inner loops that it was asked about.
    """

    loop: Estimator = field(default_factory=Reverse)
    asked: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    name: ClassVar[str] = "truncated"

    def is_constant(self, step: int, steps: int) -> bool:
        self.asked.add(steps)
        return super().is_constant(step, steps)

    def expect_asked(self, owner: str, steps: int) -> None:
        """Raise ValueError unless a loop of so many steps went by this estimator, and no other: an algorithm that takes
        its gradient in a way of its own would seem to have no curvature."""
        if self.asked != ({steps} if steps else set()):
            lengths = " and ".join(map(str, sorted(self.asked)))
            got = f"loops of {lengths}" if lengths else "none"
            raise ValueError(
                f"{owner}: an X-ray exchanges the estimator of its inner loop, expected to be asked about {steps} "
                f"inner steps; task_gradient asked it about {got}. Give "
                "self.inner.iterates() steps=step.inner_steps and estimator=self.estimator, and take the gradient by "
                "self.estimator.estimate()."
            )

    def inner_loss(self, loss: Callable[..., Any], start: PyTree) -> Callable[..., Any]:
        return self.loop.inner_loss(loss, start)


@dataclass(frozen=True)
class Split:
    """exact = first_order + Σ curvature, entry by entry; each is like the meta-parameters.

    curvature: for each range of inner steps in `steps`, in their order, what differentiating the inner gradients gₖ of
        these steps adds to the meta-gradient, with all later ones differentiated and all earlier ones constant. For
        SGD and a range of one step k that is −α Hₖ λₖ₊₁, Hₖ the support loss's Hessian at θₖ and λₖ₊₁ the exact
        gradient of the query loss with respect to θₖ₊₁.
    windows: truncated_steps → that estimate: first_order for 0, exact for all steps.
    """

    first_order: PyTree
    curvature: list[PyTree]
    steps: list[range]
    windows: dict[int, PyTree]

    @property
    def exact(self) -> PyTree:
        return self.windows[max(self.windows)]


def split(
    gradient: Callable[[Window], PyTree], windows: Sequence[int], loop: Estimator | None = None
) -> Split:
    """Split the meta-gradient of a task by which inner gradients are differentiated.

    With G(w) the estimate that is exact through the last w inner steps and takes the gradients before them for
    constants, G(0) is first order, G(steps) exact, and their difference the telescoping sum of G(w') − G(w) over
    neighbouring windows: it adds up for any optimiser, clipping, pattern of what adapts and learned rate, whatever else
    depends on the meta-parameters.

    Args:
        gradient: an estimator → the task's meta-gradient by it, at the same meta-parameters and random draws.
        windows: rising, from 0 to all inner steps: see windows_of().
        loop: the estimator whose inner loss is gone down; None: the loss as it is.
    Cost: len(windows) meta-gradients, that of window w in time and memory like Truncated(w): with every window of n
        steps about (n + 1) / 2 exact ones. Keeps len(windows) gradients.
    """
    steps = windows[-1]
    found = {window: gradient(Window(window, loop or Reverse())) for window in windows}
    pairs = list(pairwise(windows))[::-1]  # a later window reaches further back
    return Split(
        found[0],
        [pytree.tree_map(lambda a, b: a.data - b.data, found[far], found[near]) for near, far in pairs],
        [range(steps - far, steps - near) for near, far in pairs],
        found,
    )


def windows_of(steps: int, parts: int) -> list[int]:
    """Windows 0 to `steps` for split(): one more at a time, or where that would be more than `parts`, about as far
    apart as each other.

    Args:
        steps: inner steps, ≥ 0; none gives the one window 0, for the first order is then exact.
        parts: ≥ 1.
    """
    if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
        raise ValueError(f"parts must be an integer of 1 or more, got {parts!r}")
    count = min(steps, parts)
    return [round(steps * i / count) for i in range(count + 1)] if count else [0]


def expect_unrolled(learner: MetaLearner) -> Unrolled:
    """The learner, if it has an inner loop that a meta-gradient goes through. Raises: ValueError saying what has."""
    if isinstance(learner, Unrolled):
        return learner
    raise ValueError(
        f"{type(learner).__name__} has no meta-gradient through an inner loop that an X-ray could split. Take a run of "
        "algorithm=maml, anil, meta_sgd or maml_plus_plus; an algorithm of your own is derived from meta.MAML, or has "
        "inner (meta.InnerLoop), estimator and with_estimator(estimator) as that does."
    )


def inner_steps_of(learner: Unrolled, step: Step) -> int:
    return learner.inner.steps if step.inner_steps is None else step.inner_steps
