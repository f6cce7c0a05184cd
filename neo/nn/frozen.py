"""A model some of whose parameters are constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.nn.module import Module
from neo.typing import Params

__all__ = ["Frozen"]

MOST_NAMES = 20  # that an error lists


class Frozen(Module):
    """Any model, with some of its parameters as constants: neither adapted nor meta-learned, and no part of params.

        model = neo.nn.Frozen(model, frozen="block*", given=weights)  # learn a head on features that stay

    Args:
        model: any Module with parameters by name; adapters, neo.nn.LoRA, may be among them.
        frozen: which: a pattern of their names as a shell has it, or several, of which each must match one.
        given: name → tensor that parameters begin at, frozen or not, in place of what init() draws.
        seed: under which the model draws what is frozen and not given.
    Params: the model's, without the frozen ones, which `constants` has.
    Raises: ValueError for a pattern without a match, for nothing left to learn, and for a given tensor that is of no
        parameter, or of another shape.
    Cost: a call is the model's own; no gradient of a frozen weight is computed, and no optimiser keeps anything of it.
    """

    def __init__(
        self,
        model: Module,
        frozen: str | Sequence[str],
        *,
        given: Mapping[str, torch.Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        patterns = (frozen,) if isinstance(frozen, str) else tuple(frozen)
        if not patterns or not all(isinstance(one, str) for one in patterns):
            raise ValueError(
                f"Frozen: frozen={frozen!r} must be a pattern of the names of parameters, or a list of one or more: "
                '"block*", ["conv0.*", "norm0.*"].'
            )
        self.model, self.frozen, self.given = model, patterns, dict(given or {})
        start: Any = model.init(seed=seed)
        for name, tensor in self.given.items():
            if name not in start or start[name].shape != tensor.shape:
                expected = f"{tuple(start[name].shape)}" if name in start else f"one of {_listed(start)}"
                raise ValueError(
                    f"Frozen: given has {name!r} of shape {tuple(tensor.shape)}; expected {expected}."
                )
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in start):
                raise ValueError(
                    f"Frozen: frozen={pattern!r} matches no parameter; the model's: {_listed(start)}."
                )
        names = [name for name in start if any(fnmatchcase(name, one) for one in patterns)]
        if len(names) == len(start):
            raise ValueError(
                f"Frozen: frozen={list(patterns)} matches every parameter, and nothing would be learned; leave out the "
                "head, say."
            )
        self.constants = {name: self._begun(name, start[name]).data for name in names}
        self._learned = {name: leaf.dtype for name, leaf in start.items() if name not in self.constants}
        self._beside: dict[Any, dict[str, LiteTensor]] = {}

    def init(self, seed: int = 0, **options: Any) -> Params:
        params: Any = self.model.init(seed=seed, **options)
        return {name: self._begun(name, leaf) for name, leaf in params.items() if name not in self.constants}

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        drawn = self.model.draw(generator)
        return {
            name: self.given.get(name, weight) for name, weight in drawn.items() if name not in self.constants
        }

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        return self.model(self.complete(params), *args, **kwargs)

    def complete(self, params: Params) -> Params:
        """The params of the model that is wrapped: these, with the frozen ones on their device and in their dtype.

        Raises: KeyError for a name that is missing, or one too many.
        """
        given: Any = params
        if given.keys() != self._learned.keys():
            lacking, surplus = (
                [name for name in one if name not in other]
                for one, other in ((self._learned, given), (given, self._learned))
            )
            raise KeyError(
                f"Frozen: params lack {lacking}, and have {surplus} too many; frozen ones are the model's own."
            )
        name = next(iter(given))
        place = (given[name].device, given[name].dtype)
        if place not in self._beside:
            own = self._learned[name]
            self._beside[place] = {
                key: LiteTensor(one.to(place[0], place[1] if one.dtype == own else None))
                for key, one in self.constants.items()
            }
        return {**self._beside[place], **given}

    def merge(self, params: Params) -> Params:
        """complete(params), and of adapters what the model that they adapt takes: weights for the plain model."""
        whole = self.complete(params)
        return self.model.merge(whole) if hasattr(self.model, "merge") else whole

    def _begun(self, name: str, leaf: LiteTensor) -> LiteTensor:
        if name not in self.given:
            return leaf
        return LiteTensor(
            torch.empty_like(leaf.data).copy_(self.given[name])
        )  # in the layout that the model chose


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(list(names)[:MOST_NAMES]) + ", ..." * (len(names) > MOST_NAMES)
