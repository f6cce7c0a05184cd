"""Exact, in the memory of the parameters: inner gradients differentiated with forward mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import neo
from meta.estimators.base import Descent, Estimator
from neo.typing import PyTree

__all__ = ["Mixed"]


@dataclass(frozen=True)
class Mixed(Estimator):
    """Reverse's numbers; no inner forward or backward pass is ever stored. Kemaev et al. 2025, arXiv:2505.00793.

    An inner gradient leaves one node behind, of the parameters it was taken at; on the way back it is taken once more,
    with tangents along the meta-gradient so far (neo.grad's mode="mixed").
    Cost: about four gradients an inner step; memory for the parameters (and the optimiser's state) of every inner step,
    and once for a gradient's forward pass with its tangents. With `segment` = k the parameters of every k-th step are
    kept, and of k steps at a time, for one more gradient of each step before the last segment: k = √steps is least
    memory, k = steps / 2 half of it for half a gradient a step. Bias: none.

    Args:
        segment: inner steps to a segment, ≥ 1; None: all parameters are kept.
    """

    segment: int | None = None

    name: ClassVar[str] = "mixed"
    mode: ClassVar[str] = "mixed"
    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.segment is not None and not (isinstance(self.segment, int) and self.segment >= 1):
            raise ValueError(
                f"Mixed: segment must be an integer of 1 or more, or None for no segments, got {self.segment!r}"
            )

    def end(self, descent: Descent) -> PyTree:
        if self.segment is None:
            return super().end(descent)
        state: Any = descent.after(None, 0, 0)
        first = 0
        # The last segment is kept as it goes: the walk back begins with it, and holds as much of each other one when
        # it has recomputed that.
        for end in reversed(range(descent.steps - self.segment, 0, -self.segment)):
            state = neo.checkpoint(
                lambda state, first=first, count=end - first: descent.after(state, first, count)
            )(state)
            first = end
        return descent.after(state, first, descent.steps - first)[0]
