"""Body only update in the inner loop: ANIL's mirror. Oh, Yoo, Kim and Yun 2021, arXiv:2008.08882."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meta.algorithms.maml import MAML
from meta.patterns import HEAD, head_of
from neo.nn import Module

__all__ = ["BOIL"]


class BOIL(MAML):
    """Learn a head that serves every task as it is, and a body whose features a few gradient steps bring to it.

    θ = (body, head);  body′ = body − α ∇_body L_support(body, head), `inner_steps` times; the meta-gradient of
    L_query(body′, head) goes to both (section 2.2: MAML with an inner rate of 0 for the head). With freeze=() it is
    MAML.

    Args:
        freeze: which parameters do not adapt: a pattern of their names as a shell has it, "head.*", or several
            patterns, of which every one must match a parameter. "head.*" alone is the last layer of a sequence of
            layers, whatever it is called: "linear2.*" of an MLP of three.
        others: as MAML has them.
    Raises: ValueError where freeze is no pattern, and at the first adaptation where one matches no parameter.
    Cost: MAML's.
    """

    def __init__(self, model: Module, *, freeze: str | Sequence[str] = HEAD, **options: Any):
        super().__init__(model, freeze=head_of(model, freeze), **options)
