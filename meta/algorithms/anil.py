"""Almost no inner loop: MAML in which only some parameters adapt. Raghu et al. 2020, arXiv:1909.09157."""

from __future__ import annotations

import difflib
import re
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
        adapt: which parameters adapt: a pattern of their names as a shell has it, "head.*", or several patterns, of
            which every one must match a parameter.
        others: as MAML has them.
    Raises: ValueError where adapt is no pattern, and at the first adaptation where one matches no
        parameter.
    Cost: an inner step computes no gradient below the first parameter that adapts, neither at first nor second order.
    """

    def __init__(self, model: Module, *, adapt: str | Sequence[str] = "head.*", **options: Any):
        super().__init__(model, **options)
        self.patterns = expect_patterns(adapt)

    def _inner_loop(self, params: Params, support: Batch, steps: int) -> Iterator[Params]:
        # First order means that ∇L is a constant, in the parameters that stay as much as in those that adapt.
        fixed = neo.stop_gradient(params) if self.first_order else params

        def loss(adapted: Params, support: Batch) -> Any:
            return self._support_loss({**fixed, **adapted}, support)

        way = trajectory(
            loss,
            {name: params[name] for name in matching(self.patterns, params)},
            support,
            optimizer=self.inner_optimizer,
            steps=steps,
            first_order=self.first_order,
        )
        return ({**params, **adapted} for adapted in way)


def expect_patterns(adapt: Any) -> tuple[str, ...]:
    """A pattern, or a sequence of patterns, as a tuple. Raises: ValueError for anything else, and for no pattern."""
    patterns = (adapt,) if isinstance(adapt, str) else adapt
    if (
        not isinstance(patterns, Sequence)
        or not patterns
        or not all(isinstance(one, str) for one in patterns)
    ):
        raise ValueError(
            f'ANIL: adapt={adapt!r} must be a pattern of parameter names, or a list of one or more: "head.*", '
            '["head.*", "norm*.bias"], or "*" for all.'
        )
    return tuple(patterns)


def matching(patterns: Sequence[str], params: Params) -> list[str]:
    """The names, in the order of params, that any of the patterns matches.

    Raises: ValueError naming every pattern that matches none of them, and the parameters nearest to it.
    """
    unmatched = [one for one in patterns if not any(fnmatchcase(name, one) for name in params)]
    if unmatched:
        said = "; ".join(f"{one!r} matches no parameter{_nearest(one, list(params))}" for one in unmatched)
        raise ValueError(
            f"ANIL: in algorithm.adapt, {said}. The model's parameters: {_shortened(list(params))}."
        )
    return [name for name in params if any(fnmatchcase(name, one) for one in patterns)]


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """The nearest names, compared without the pattern's wildcards, up to as many dots as it has, or whole."""
    word = re.sub(r"[*?]", "", pattern).strip(".")
    depth = word.count(".") + 1
    starts = [".".join(name.split(".")[:depth]) for name in names]
    closest = difflib.get_close_matches(word, dict.fromkeys(starts), n=1, cutoff=0.5)
    near = [name for name, start in zip(names, starts, strict=True) if start in closest][:3]
    near = near or difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f" (nearest: {', '.join(near)})" if near else ""


def _shortened(names: Sequence[str], most: int = 20) -> str:
    """All names, or where they are many the first and the last ones."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most // 2])}, ..., {', '.join(names[-most // 2 :])} ({len(names)} in all)"
