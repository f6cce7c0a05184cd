"""Almost no inner loop: MAML in which only some parameters adapt. Raghu et al. 2020, arXiv:1909.09157."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meta.algorithms.maml import MAML
from meta.patterns import HEAD, head_of
from neo.nn import Module

__all__ = ["ANIL"]


class ANIL(MAML):
    """Learn features that serve every task, and an initialisation of the head that a few gradient steps fit to one.

    θ = (body, head);  head′ = head − α ∇_head L_support(body, head), `inner_steps` times; the meta-gradient of
    L_query(body, head′) goes to both (section 4.1, ANIL algorithm). With adapt="*" it is MAML.

    Args:
        adapt: which parameters adapt: a pattern of their names as a shell has it, "head.*", or several patterns, of
            which every one must match a parameter. "head.*" alone is the last layer of a sequence of layers, whatever
            it is called: "linear2.*" of an MLP of three.
        others: as MAML has them.
    Raises: ValueError where adapt is no pattern, and at the first adaptation where one matches no
        parameter.
    Cost: an inner step computes no gradient below the first parameter that adapts, neither at first nor second order.
    """

    def __init__(self, model: Module, *, adapt: str | Sequence[str] = HEAD, **options: Any):
        super().__init__(model, adapt=head_of(model, adapt), **options)
