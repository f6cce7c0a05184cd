"""By whose statistics batch norms normalise in a `with` block, whatever model is called in it.

A model says how its batch norms normalise; who evaluates it may ask for something else: by the batch's own statistics,
by running ones alone, or by those of another batch, which went ahead. The blocks reach neo.nn's layers, converted
modules, and F.batch_norm and torch.batch_norm wherever they are called on this thread. A mean and a variance that a
model takes by other functions are out of their reach.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from neo.autograd.tensor import LiteTensor
from neo.functions.registry import raw

__all__ = [
    "Call",
    "NoRunningStatistics",
    "applied",
    "by_own",
    "by_recorded",
    "by_running",
    "chosen",
    "own_in_place_of_running",
    "paused",
    "recording",
    "rewinding_statistics",
]

Recorded = list[
    tuple[torch.Tensor, torch.Tensor]
]  # mean and biased variance (channels,) of each batch norm, as called


class NoRunningStatistics(ValueError):
    """Running statistics were asked for, and a batch norm has none."""


class Call(NamedTuple):
    """The arguments of F.batch_norm."""

    x: Any
    running_mean: Any = None
    running_var: Any = None
    weight: Any = None
    bias: Any = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


class _Here(threading.local):
    mode: _Statistics | None = None  # of the innermost block
    own: bool = False  # whether converted modules normalise by own statistics in place of running ones


_here = _Here()


class _Statistics(TorchFunctionMode):
    """Changes calls of batch norm; the block itself.

    As torch's function mode it sees those on plain tensors; Neo's own batch norm, on LiteTensors, asks applied().
    """

    def __enter__(self) -> _Statistics:
        self.before, _here.mode = _here.mode, self
        self.passive = False
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _here.mode = self.before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        of = _SIGNATURES.get(func)
        if of is None or self.passive:
            return func(*args, **kwargs)
        call = of(*args, **kwargs)
        if any(isinstance(value, LiteTensor) for value in call):
            return func(*args, **kwargs)
        return self(call)

    def __call__(self, call: Call) -> Any:
        self.passive = True  # for the batch norm that the call is replaced by
        try:
            return self.normalise(call)
        finally:
            self.passive = False

    def normalise(self, call: Call) -> Any:
        return by_batch(call)

    def mark(self) -> int:
        """How many batch norms there were, for rewind()."""
        return 0

    def rewind(self, mark: int) -> None:
        """To a mark: a call that failed midway is made again."""


class _Recording(_Statistics):
    def __init__(self, found: Recorded) -> None:
        super().__init__()
        self.found = found

    def normalise(self, call: Call) -> Any:
        data = raw(call.x)
        y = by_batch(call)  # which says what is wrong with x
        variance, mean = torch.var_mean(data, dim=(0, *range(2, data.ndim)), unbiased=False)
        self.found.append((mean.detach(), variance.detach()))
        return y

    def mark(self) -> int:
        return len(self.found)

    def rewind(self, mark: int) -> None:
        del self.found[mark:]


class _Given(_Statistics):
    def __init__(self, statistics: Recorded) -> None:
        super().__init__()
        self.statistics, self.taken = statistics, 0

    def normalise(self, call: Call) -> Any:
        if self.taken >= len(self.statistics):
            raise ValueError(
                f"batch norm by recorded statistics: the model calls more batch norms than the {self.taken} that were "
                "recorded; it must run the same layers on every input."
            )
        mean, variance = self.statistics[self.taken]
        if mean.shape[-1] != call.x.shape[1]:
            raise ValueError(
                f"batch norm by recorded statistics: those of batch norm number {self.taken + 1} are of "
                f"{mean.shape[-1]} channels, and x has {call.x.shape[1]}; the model must run the same layers in one "
                "order on every input."
            )
        self.taken += 1
        return F.batch_norm(call.x, mean, variance, call.weight, call.bias, False, 0.0, call.eps)

    def mark(self) -> int:
        return self.taken

    def rewind(self, mark: int) -> None:
        self.taken = mark


class _Running(_Statistics):
    def normalise(self, call: Call) -> Any:
        if call.training or call.running_mean is None or call.running_var is None:
            raise NoRunningStatistics(
                "a batch norm was to normalise by running statistics, and normalises by those of its batch."
            )
        return F.batch_norm(*call)


def recording(into: Recorded) -> contextlib.AbstractContextManager[Any]:
    """Batch norms in the block normalise by their batch, and append its mean and biased variance, (channels,) each."""
    return _Recording(into)


@contextlib.contextmanager
def by_recorded(statistics: Recorded) -> Iterator[None]:
    """The first batch norm of the block by the first pair, and so on: what recording() left of the same model.

    Raises: ValueError where batch norms are more or fewer, or of other sizes.
    """
    block = _Given(statistics)
    with block:
        yield
    if block.taken != len(statistics):
        raise ValueError(
            f"batch norm by recorded statistics: {len(statistics)} were recorded and {block.taken} taken; the model "
            "must run the same layers on every input."
        )


def by_running() -> contextlib.AbstractContextManager[Any]:
    """Batch norms in the block have running statistics, or raise NoRunningStatistics."""
    return _Running()


@contextlib.contextmanager
def by_own() -> Iterator[None]:
    """Converted modules in the block normalise by their batch, also those that have running statistics (frozen).

    What normalises by its batch anyway runs as ever, bit for bit.
    """
    before, _here.own = _here.own, True
    try:
        yield
    finally:
        _here.own = before


def chosen() -> bool:
    """Whether a block says how to normalise, so that batch norms must be called one by one, by F.batch_norm."""
    return _here.mode is not None and not _here.mode.passive


def applied(call: Call) -> Any:
    """What the block around makes of a batch norm on LiteTensors; to be asked only where one has chosen()."""
    assert _here.mode is not None
    return _here.mode(call)


@contextlib.contextmanager
def own_in_place_of_running() -> Iterator[None]:
    """For a model that normalises by running statistics: what by_own() asks for."""
    if not _here.own or chosen():
        yield
    else:
        with _Statistics():
            yield


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Calls in the block are nobody's predictions, and count for no one outside."""
    mode = _here.mode
    if mode is None or mode.passive:
        yield
        return
    mode.passive = True
    try:
        yield
    finally:
        mode.passive = False


def rewinding_statistics() -> Any:
    """A function that goes back to where this thread is now: for a call that is made again."""
    mode = _here.mode
    if mode is None:
        return lambda: None
    mark = mode.mark()
    return lambda: mode.rewind(mark)


def by_batch(call: Call) -> Any:
    """F.batch_norm by the statistics of x."""
    return F.batch_norm(call.x, None, None, call.weight, call.bias, True, 0.0, call.eps)


def _of_torch(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool,
    momentum: float, eps: float, cudnn_enabled: bool,
) -> Call:  # fmt: skip
    return Call(input, running_mean, running_var, weight, bias, training, momentum, eps)


_SIGNATURES: dict[Any, Callable[..., Call]] = {
    F.batch_norm: lambda input, *args, **kwargs: Call(input, *args, **kwargs),
    torch.batch_norm: _of_torch,
}
