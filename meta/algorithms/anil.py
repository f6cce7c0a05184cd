"""Almost no inner loop: MAML in which only some parameters adapt. Raghu et al. 2020, arXiv:1909.09157."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import neo
from meta.adapt import trajectory
from meta.algorithms.maml import MAML
from neo.nn import Module
from neo.typing import Params
from tasks import Batch

__all__ = ["ANIL"]


class ANIL(MAML):
    """Learn features that serve every task, and an initialisation of the head that a few gradient steps fit to one.

    θ = (body, head);  head′ = head − α ∇_head L_support(body, head), `inner_steps` times; the meta-gradient of
    L_query(body, head′) goes to both (section 4.1, ANIL algorithm). With adapt="*" it is MAML.

    Args:
        adapt: which parameters adapt: a pattern of their names as a shell has it, "head.*", or several patterns.
        others: as MAML has them.
    Raises: ValueError at the first adaptation where no parameter matches.
    Cost: an inner step computes no gradient below the first parameter that adapts, neither at first nor second order.
    """

    def __init__(self, model: Module, *, adapt: str | Sequence[str] = "head.*", **options: Any):
        super().__init__(model, **options)
        self.patterns = (adapt,) if isinstance(adapt, str) else tuple(adapt)

    def _inner_loop(self, params: Params, support: Batch, steps: int) -> Iterator[Params]:
        # First order means that ∇L is a constant, in the parameters that stay as much as in those that adapt.
        fixed = neo.stop_gradient(params) if self.first_order else params

        def loss(adapted: Params, support: Batch) -> Any:
            return self._support_loss({**fixed, **adapted}, support)

        way = trajectory(
            loss,
            self._adapting(params),
            support,
            optimizer=self.inner_optimizer,
            steps=steps,
            first_order=self.first_order,
        )
        return ({**params, **adapted} for adapted in way)

    def _adapting(self, params: Params) -> Params:
        chosen = {
            name: value
            for name, value in params.items()
            if any(fnmatchcase(name, pattern) for pattern in self.patterns)
        }
        if not chosen:
            raise ValueError(
                f"ANIL: adapt={', '.join(self.patterns)!r} matches no parameter; choose algorithm.adapt so that it "
                f"matches some of {', '.join(params)}."
            )
        return chosen
