"""Where random draws come from: torch's default generator, or a seed given for a stretch of code."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from neo.errors import DrawError

__all__ = [
    "SeededCalls",
    "draws",
    "dropping",
    "generator_for",
    "no_draws",
    "noise_generator",
    "register_mode",
    "replay",
    "rewinding",
    "source",
    "undrawn",
]


Result = TypeVar("Result")


class draws:
    """What is drawn inside `with draws(seed):` is drawn from the seed, so that the code is a pure function of it.

    That is dropout and every other random function of torch's (torch.randn_like, Tensor.uniform_, torch.distributions),
    on LiteTensors and torch tensors alike, unless it is given a generator of its own. Python's and numpy's random
    numbers are their own business.

    The same code under the same seed meets the same draws, on any thread and whatever torch's default generator has
    done (a CPU and a GPU draw differently). Each `with` starts anew from the seed. Blocks nest; the innermost holds. A
    block holds for the thread that entered it.
    draws(seed, dropout=False): dropout and its kin drop nothing, as in evaluation; other random functions draw from the
    seed.
    draws(None): nothing is dropped either; other random functions draw from torch's default generator.

    Cost: in the block, torch functions of torch tensors take about a microsecond more, those of LiteTensors do not.
    """

    def __init__(self, seed: int | None, *, dropout: bool = True):
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise TypeError(f"draws: expected an integer seed, or None to drop nothing; got {seed!r}")
        self.seed, self.dropout = seed, dropout
        self._generators: dict[torch.device, torch.Generator] = {}

    def __enter__(self) -> draws:
        same = copy.copy(self)  # for this time and thread alone
        same._generators = {}
        _enter(same)
        return self

    def __exit__(self, *_: object) -> None:
        _leave()

    def drops(self) -> bool:
        return self.seed is not None and self.dropout

    def generator(self, device: torch.device) -> torch.Generator:
        if self.seed is None:
            raise DrawError("draws(None): a random draw where none is wanted; give a seed, draws(seed)")
        if device.type != "cpu" and ":" not in str(device):  # "cuda" is the one that is current
            device = torch.device(device.type, torch.accelerator.current_device_index())
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    def onwards(self) -> draws:
        """What this block draws from here on, to be drawn again."""
        same = copy.copy(self)
        same._generators = {device: generator.clone_state() for device, generator in self._generators.items()}
        return same


class no_draws(draws):
    """Inside, whoever would draw raises DrawError with these words.

    asks: whether torch asks about its functions of torch tensors, too, as `draws` has it do. Without, the block costs
    nothing, and whoever draws on torch tensors is not refused; drew() says afterwards whether anybody has moved torch's
    default generator, on whatever thread.
    """

    def __init__(self, message: str, *, asks: bool = True):
        super().__init__(None)
        self.message, self.asks = message, asks
        self._states: list[bytes] = []

    def __enter__(self) -> no_draws:
        # While a CUDA graph is recorded, its generator cannot be looked at.
        recording = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        self._states = [] if recording else _default_states()
        _enter(self, mode=self.asks or recording)
        return self

    def drew(self) -> bool:
        return bool(self._states) and self._states != _default_states()

    def drops(self) -> bool:
        return True

    def generator(self, device: torch.device) -> torch.Generator:
        raise DrawError(self.message)


class _Place(threading.local):
    """The innermost block of this thread; None outside of all."""

    source: draws | None = None

    def __init__(self) -> None:
        # Of each open block, the one around it, and what entering it did to torch's function modes.
        self.entered: list[tuple[draws | None, int | None]] = []


_place = _Place()
# Set by neo.functions: what has torch's own random functions ask here, see register_mode.
_begin_mode: Callable[[], int] = lambda: 0  # noqa: E731
_end_mode: Callable[[int], None] = lambda change: None  # noqa: E731


def register_mode(begin: Callable[[], int], end: Callable[[int], None]) -> None:
    """Say what sees torch's functions in a block: begin() as it is entered, end(what begin gave) as it is left."""
    global _begin_mode, _end_mode
    _begin_mode, _end_mode = begin, end


def _enter(block: draws | None, mode: bool = True) -> None:
    """mode: False leaves torch's random functions on torch tensors to torch's default generator."""
    outer, _place.source = _place.source, block
    _place.entered.append((outer, _begin_mode() if mode else None))


def _leave() -> None:
    _place.source, change = _place.entered.pop()
    if change is not None:
        _end_mode(change)


def source() -> draws | None:
    """The innermost `with draws(...)` of this thread; None outside of all, where torch's default generator draws."""
    return _place.source


class SeededCalls:
    """Calls functions as inside `with draws(seed)`, without what a block costs as long as none of them needs one.

    A block has torch ask about every function of torch tensors, since any may draw: a tenth of the time of a small
    network's meta-step. Here a call is made without being asked at first, and what it draws on LiteTensors comes from
    its seed. That it drew on torch tensors too is seen by the state of torch's default generator: it is then made anew,
    in a block, and so are all later calls. A function may thus be called twice. On several threads the draws of one
    make all of them go that way, which changes nothing that they give.

    Not seen is a draw within torch.random.fork_rng, which puts the state back.
    """

    def __init__(self) -> None:
        self._blocks = False  # whether calls are made in blocks

    def __call__(self, seed: int, fn: Callable[[], Result], *, dropout: bool = True) -> Result:
        block = draws(seed, dropout=dropout)
        if not self._blocks:
            before = _default_states()
            _enter(block, mode=False)
            try:
                result = fn()
            finally:
                _leave()
            if _default_states() == before:
                return result
            self._blocks = True
        with block:
            return fn()


def _default_states() -> list[bytes]:
    """Of torch's default generators; in the memory of the host, so that nothing waits for a device.

    Read by address: as tensors they would meet whatever mode (fake tensors, vmap) is around.
    """
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    states = [generator.get_state() for generator in generators]
    return [ctypes.string_at(state.data_ptr(), state.numel()) for state in states]


class replay:
    """`with replay():` draws again what has been drawn since this was made, whatever block it is entered in."""

    def __init__(self) -> None:
        self._from = None if _place.source is None else _place.source.onwards()

    def __enter__(self) -> None:
        _enter(None if self._from is None else self._from.onwards())

    def __exit__(self, *_: object) -> None:
        _leave()


def undrawn() -> contextlib.AbstractContextManager[None]:
    """As if outside of all blocks of this thread: torch's default generator draws."""
    return _as(None)


def rewinding() -> Callable[[], None]:
    """A function that sets the block around this call back to where it is now, for work that is begun anew."""
    block = _place.source
    before = None if block is None else block.onwards()

    def rewind() -> None:
        if block is not None and before is not None:
            block._generators = before._generators

    return rewind


@contextlib.contextmanager
def _as(block: draws | None) -> Iterator[None]:
    _enter(block)
    try:
        yield
    finally:
        _leave()


def dropping() -> bool:
    """Does dropout drop anything here? Not inside `with draws(None)` or `draws(seed, dropout=False)`."""
    return _place.source is None or _place.source.drops()


def generator_for(device: torch.device) -> torch.Generator | None:
    """Whom dropout asks for random numbers on a device; None for torch's default generator.

    Raises: DrawError in a block that has no seed.
    """
    return None if _place.source is None else _place.source.generator(device)


def noise_generator(device: torch.device) -> torch.Generator | None:
    """Whom all else asks for random numbers on a device: torch's default generator (None) in a block without a seed."""
    if _place.source is None or _place.source.seed is None or device.type == "meta":
        return None
    return _place.source.generator(device)
