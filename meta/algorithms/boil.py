"""Body only update in the inner loop: ANIL's mirror. Oh, Yoo, Kim and Yun 2021, arXiv:2008.08882."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meta.algorithms.maml import MAML
from neo.nn import Module

__all__ = ["BOIL"]


class BOIL(MAML):
    """Learn a head that serves every task as it is, and a body whose features a few gradient steps bring to it.

    θ = (body, head);  body′ = body − α ∇_body L_support(body, head), `inner_steps` times; the meta-gradient of
    L_query(body′, head) goes to both (section 2.2: MAML with an inner rate of 0 for the head). With freeze=() it is
    MAML.

    Args:
        freeze: which parameters do not adapt: a pattern of their names as a shell has it, "head.*", or several
            patterns, of which every one must match a parameter.
        others: as MAML has them.
    Raises: ValueError where freeze is no pattern, and at the first adaptation where one matches no parameter.
    Cost: MAML's.
    """

    def __init__(self, model: Module, *, freeze: str | Sequence[str] = "head.*", **options: Any):
        super().__init__(model, freeze=freeze, **options)
