"""What a converted module runs as one op, and the search for it at the first call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from neo.errors import ConversionError
from neo.functions.layouts import NotAView
from neo.nn._torch.copies import Copy
from neo.nn._torch.fusion import Chain, NotFused, Watch, convolutions, fuse
from neo.nn._torch.perceptrons import Layers, layers_of, run_as_one

__all__ = ["OneOps"]


class OneOps:
    """Chains of layers (fusion.py) and perceptrons (perceptrons.py) of a module; none at first.

    own_layouts: whether Neo chooses how images lie within, as the chains do. Copies that were made before a search, or
    before something was given up, are no longer as they should be.
    """

    def __init__(self) -> None:
        self.chains: tuple[Chain, ...] = ()
        self.perceptrons: tuple[Layers, ...] = ()
        self.own_layouts = False

    def put_into(self, module: torch.nn.Module) -> None:
        """Have a copy run them."""
        run_as_one(module, self.perceptrons)
        if self.own_layouts:
            fuse(module, self.chains)

    def __iter__(self) -> Iterator[str]:
        """A line each, for people."""
        return map(str, (*self.chains, *self.perceptrons))

    def give_up(self, error: NotFused | NotAView) -> None:
        """The chain that the error is about, or its end; or all of them and the layout."""
        if isinstance(error, NotFused):
            instead = {chain: chain for chain in self.chains} | {error.chain: error.chain.shorter()}
            self._use(chain for chain in instead.values() if chain is not None)
        else:
            self._use((), own_layouts=False)

    def find(
        self,
        new_copy: Callable[[], Copy],
        watched: Callable[[Copy, Watch], tuple[Chain, ...]],
        check: Callable[[], None],
    ) -> None:
        """All of them that give torch's numbers.

        watched: runs a copy, and gives the chains that this showed. check: compares a new copy with torch's forward;
            raises ConversionError or RuntimeError where they differ.
        """
        self.perceptrons = layers_of(new_copy().module)
        try:
            if self.perceptrons:
                check()
        except (ConversionError, RuntimeError):
            self.perceptrons = ()
        ours = new_copy()
        convolves = bool(convolutions(ours.module))
        chains = watched(ours, Watch(ours.module))
        self._use(chains, own_layouts=bool(chains) or convolves)
        while self.own_layouts:
            try:
                check()
                break
            except (NotFused, NotAView) as error:
                self.give_up(error)
            except (ConversionError, RuntimeError):  # it makes use of how its images lie in memory
                self._use((), own_layouts=False)

    def _use(self, chains: Iterable[Chain], own_layouts: bool = True) -> None:
        self.chains, self.own_layouts = tuple(chains), own_layouts
