"""Where dropout's random draws come from: torch's default generator, or a seed given for a stretch of code."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
import torch.nn.functional as F

from neo.errors import DrawError

__all__ = ["draws", "dropping", "generator_for", "kept", "no_draws", "replay", "source"]


class draws:
    """Dropout inside `with draws(seed):` draws from the seed, so that the code is a pure function of it.

    The same code under the same seed meets the same draws, on any thread and whatever torch's default generator has
    done (a CPU and a GPU draw differently). Each `with` starts anew from the seed. Blocks nest; the innermost holds.
    draws(None): nothing is dropped, as in evaluation.
    """

    def __init__(self, seed: int | None):
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise TypeError(f"draws: expected an integer seed, or None to drop nothing; got {seed!r}")
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self._outer: list[draws | None] = []

    def __enter__(self) -> draws:
        self._outer.append(_place.source)
        self._generators = {}
        _place.source = self
        return self

    def __exit__(self, *_: object) -> None:
        _place.source = self._outer.pop()

    def drops(self) -> bool:
        return self.seed is not None

    def generator(self, device: torch.device) -> torch.Generator:
        if self.seed is None:
            raise DrawError("draws(None): a random draw where none is wanted; give a seed, draws(seed)")
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    def onwards(self) -> draws:
        """What this block draws from here on, to be drawn again."""
        same = copy.copy(self)
        same._outer = []
        same._generators = {device: generator.clone_state() for device, generator in self._generators.items()}
        return same


class no_draws(draws):
    """Inside, whoever would draw raises DrawError with these words."""

    def __init__(self, message: str):
        super().__init__(None)
        self.message = message

    def drops(self) -> bool:
        return True

    def generator(self, device: torch.device) -> torch.Generator:
        raise DrawError(self.message)


class _Place(threading.local):
    """The innermost block of this thread; None outside of all."""

    source: draws | None = None


_place = _Place()


def source() -> draws | None:
    """The innermost `with draws(...)` of this thread; None outside of all, where torch's default generator draws."""
    return _place.source


class replay:
    """`with replay():` draws again what has been drawn since this was made, whatever block it is entered in."""

    def __init__(self) -> None:
        self._from = None if _place.source is None else _place.source.onwards()
        self._outer: list[draws | None] = []

    def __enter__(self) -> None:
        self._outer.append(_place.source)
        _place.source = None if self._from is None else self._from.onwards()

    def __exit__(self, *_: object) -> None:
        _place.source = self._outer.pop()


def dropping() -> bool:
    """Does dropout drop anything here? Not inside `with draws(None)`."""
    return _place.source is None or _place.source.drops()


def generator_for(device: torch.device) -> torch.Generator | None:
    """Whom to ask for random numbers on a device; None for torch's default generator."""
    return None if _place.source is None else _place.source.generator(device)


def kept(shape: Any, p: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """0 with probability p, else 1 / (1 − p), for each entry of a shape: what dropout multiplies by."""
    generator = generator_for(device)
    ones = torch.ones(shape, dtype=dtype, device=device)
    if generator is None:
        return F.dropout(ones, p)  # so that torch's generator drops the same entries here and in torch
    return ones.bernoulli_(1 - p, generator=generator).div_(1 - p) if p < 1 else ones.zero_()
