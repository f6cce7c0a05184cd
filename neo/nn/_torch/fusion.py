"""Chains of layers that a converted module runs as one op: convolution, batch norm, (leaky) ReLU, max pooling.

A chain is found by watching one run of the module, and named by its layers. In a copy that has chains, a convolution
and a batch norm only note what they were called with, and give a Pending in place of a tensor; the chain's last layer
then runs them all, on Neo's own kernels where these take the tensors (neo/functions/fused.py). A Pending stands for no
tensor: whatever else the module does with it raises NotFused, and the chain ends at its norm from then on, or is given
up. So a chain can be found wrongly, in a module that takes another path later, or adds to a norm's output in place
before it rectifies it, and the numbers are right all the same.

Convolutions outside of chains get their images channels-last, too, which Neo's kernels take, and torch's pool and
normalise several times as fast; layouts.py sees to it that nobody takes a copy for a view.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from neo.autograd.tensor import LiteTensor
from neo.functions import chosen_statistics
from neo.functions.fused import block_of_any_layout
from neo.functions.layouts import in_own_layout
from neo.functions.norm_relu_pool import batch_norm_relu, batch_norm_relu_max_pool

__all__ = ["Chain", "NotFused", "Watch", "convolutions", "fuse", "is_plain"]

_RELU = (F.relu, torch.relu, F.relu_, torch.relu_)
_LEAKY = (F.leaky_relu, F.leaky_relu_)
_NORMALISED, _RECTIFIED = "batch norm", "ReLU"


class Chain(NamedTuple):
    """Names of a convolution (None: the chain starts at the norm) and a batch norm; slope of the rectifier below 0, 0 a
    ReLU's, 1: there is none; window of the pooling, 1: none."""

    conv: str | None
    norm: str
    slope: float
    window: int

    def shorter(self) -> Chain | None:
        """Without what follows the norm, where something does and a convolution is left to go with it."""
        short = Chain(self.conv, self.norm, 1.0, 1)
        return None if self.conv is None or self == short else short

    def __str__(self) -> str:
        layers = [*([self.conv] if self.conv is not None else []), self.norm]
        if self.slope != 1:
            layers.append("ReLU" if self.slope == 0 else f"leaky ReLU {self.slope:g}")
        return " + ".join(
            [*layers, f"max pooling {self.window}x{self.window}"] if self.window > 1 else layers
        )


class NotFused(BaseException):
    """A module uses what lies within a chain. No Exception, so that no `except Exception` in the module takes it."""

    def __init__(self, chain: Chain):
        super().__init__(str(chain))
        self.chain = chain


# --- finding chains ----------------------------------------------------------------------------------------------


class Watch(TorchFunctionMode):
    """Sees one run of a copy: which layer's output goes into which. The copy is spent afterwards."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self._made: dict[int, tuple[str, Any]] = {}  # id of an output -> name of its layer, the output
        self._norms: list[tuple[str, str | None, Any]] = []  # norm, the convolution before it, its output
        # Of a rectifier or pooling: id of its input -> the input, the output, slope, window.
        self._used: dict[int, list[tuple[Any, Any, float, int]]] = {}
        for name, part in module.named_modules():
            if type(part) is torch.nn.Conv2d and is_plain(part):
                vars(part)["forward"] = functools.partial(self._conv, name, part)
            elif type(part) is torch.nn.BatchNorm2d and is_plain(part) and _by_the_batch(part):
                vars(part)["forward"] = functools.partial(self._norm, name, part)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = args[0] if args else None
        out = func(*args, **kwargs)
        slope, window = _slope_of(func, args, kwargs), _window_of(func, args, kwargs)
        if isinstance(before, LiteTensor) and not (slope is None and window is None):
            used = (before, out, 1.0 if slope is None else slope, window or 1)
            self._used.setdefault(id(before), []).append(used)
        return out

    def _conv(self, name: str, conv: torch.nn.Module, x: Any) -> Any:
        out = type(conv).forward(conv, x)
        self._made[id(out)] = (name, out)
        return out

    def _norm(self, name: str, norm: torch.nn.Module, x: Any) -> Any:
        conv = self._made.get(id(x), (None, None))[0]
        out = type(norm).forward(norm, x)
        self._norms.append((name, conv, out))
        return out

    def chains(self) -> tuple[Chain, ...]:
        """Of layers that were run once."""
        names = [name for name, *_ in self._norms]
        found = []
        for name, conv, out in self._norms:
            if names.count(name) != 1:
                continue
            rectified = [(after, slope) for _, after, slope, _ in self._used.get(id(out), []) if slope != 1]
            out, slope = rectified[0] if len(rectified) == 1 else (out, 1.0)
            pooled = [window for _, _, _, window in self._used.get(id(out), []) if window > 1]
            window = pooled[0] if len(pooled) == 1 and len(rectified) < 2 else 1
            if conv is not None or slope != 1 or window > 1:
                found.append(Chain(conv, name, slope, window))
        return tuple(found)


def is_plain(part: torch.nn.Module) -> bool:
    """Whether nothing but its forward runs when the layer is called."""
    hooks = (part._forward_hooks, part._forward_pre_hooks)
    return not any(hooks) and "forward" not in vars(part)


def _by_the_batch(norm: Any) -> bool:
    return norm.affine and norm.running_mean is None and (norm.training or not norm.track_running_stats)


def _slope_of(func: Any, args: Any, kwargs: Any) -> float | None:
    """The slope below 0 of a rectifier that does not fall; None for any other call."""
    if func in _RELU:
        return 0.0
    if func not in _LEAKY:
        return None
    slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
    return float(slope) if isinstance(slope, int | float) and 0 <= slope < 1 else None


def _window_of(func: Any, args: Any, kwargs: Any) -> int | None:
    """The window of a max pooling of windows side by side, without a border; None for any other call."""
    if func is not F.max_pool2d:
        return None
    given = dict(
        zip(
            ("input", "kernel", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
            args,
            strict=False,
        )
    )
    given |= {"kernel" if key == "kernel_size" else key: value for key, value in kwargs.items()}
    kernel, stride = given["kernel"], given.get("stride")
    sides = {kernel} if isinstance(kernel, int) else set(kernel)
    steps = sides if stride is None else {stride} if isinstance(stride, int) else set(stride)
    plain = given.get("padding", 0) in (0, (0, 0)) and given.get("dilation", 1) in (1, (1, 1))
    if (
        len(sides) != 1
        or steps != sides
        or not plain
        or given.get("ceil_mode")
        or given.get("return_indices")
    ):
        return None
    window = sides.pop()
    return window if window > 1 else None


# --- running them ------------------------------------------------------------------------------------------------


def fuse(module: torch.nn.Module, chains: Iterable[Chain]) -> None:
    """Have the layers of a copy run as chains, and its convolutions have their images channels-last."""
    for conv in convolutions(module):
        vars(conv)["forward"] = functools.partial(_convolved, conv)
    for chain in chains:
        norm = module.get_submodule(chain.norm)
        conv = None if chain.conv is None else module.get_submodule(chain.conv)
        if conv is not None:
            vars(conv)["forward"] = functools.partial(_convolve, chain, conv, norm)
        vars(norm)["forward"] = functools.partial(_normalise, chain, norm)


def convolutions(module: torch.nn.Module) -> list[Any]:
    return [part for part in module.modules() if type(part) is torch.nn.Conv2d and is_plain(part)]


def _convolved(conv: Any, x: Any) -> Any:
    return type(conv).forward(conv, in_own_layout(x))


def _convolve(chain: Chain, conv: Any, norm: Any, x: Any) -> Any:
    if not isinstance(x, LiteTensor | torch.Tensor) or x.ndim != 4:
        return type(conv).forward(conv, x)
    return Pending(chain, x, conv, norm, "")


def _normalise(chain: Chain, norm: Any, x: Any) -> Any:
    if isinstance(x, Pending) and x.chain is chain and not x.done:
        normalised = x.after(_NORMALISED)
    elif chain.conv is None and isinstance(x, LiteTensor) and x.ndim == 4:
        normalised = Pending(chain, x, None, norm, _NORMALISED)
    else:
        return type(norm).forward(norm, x)
    return normalised if normalised.goes_on() else normalised.run()


class Pending:
    """What a chain was called with, where no tensor is yet. Each step gives another one, so that none is used up."""

    def __init__(self, chain: Chain, x: Any, conv: Any, norm: Any, done: str):
        self.chain, self.x, self.conv, self.norm, self.done = chain, x, conv, norm, done

    def after(self, done: str) -> Pending:
        return Pending(self.chain, self.x, self.conv, self.norm, done)

    def goes_on(self) -> bool:
        """Whether the chain has a layer that is still to come."""
        return self.chain.window > 1 or (self.chain.slope != 1 and self.done != _RECTIFIED)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotFused(self.chain)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        if isinstance(first, Pending):
            kwargs = kwargs or {}
            slope = _slope_of(func, args, kwargs)
            if slope is not None and slope == first.chain.slope and first.done == _NORMALISED:
                rectified = first.after(_RECTIFIED)
                return rectified if rectified.goes_on() else rectified.run()
            ready = _RECTIFIED if first.chain.slope != 1 else _NORMALISED
            if _window_of(func, args, kwargs) == first.chain.window and first.done == ready:
                return first.run()
            raise NotFused(first.chain)
        raise NotFused(
            next(value.chain for value in _flat((args, kwargs or {})) if isinstance(value, Pending))
        )

    def run(self) -> Any:
        """The chain's output."""
        conv, norm, x, (*_, slope, window) = self.conv, self.norm, self.x, self.chain
        if chosen_statistics.chosen():
            x = x if conv is None else _convolved(conv, x)
            y = type(norm).forward(norm, x)
            y = torch.relu(y) if slope == 0 else y if slope == 1 else F.leaky_relu(y, slope)
            return F.max_pool2d(y, window) if window > 1 else y
        if conv is not None:
            y = _block(conv, norm, x, slope, window)
            if y is not None:
                return y
            x = _convolved(conv, x)
        if x.numel() == x.shape[1]:
            type(norm).forward(norm, x)  # says what is wrong
        if window > 1:
            return batch_norm_relu_max_pool(x, norm.weight, norm.bias, window, norm.eps, slope)
        return batch_norm_relu(x, norm.weight, norm.bias, norm.eps, slope)


def _refuse_operators() -> None:
    """Python looks operators up on the class."""
    binary = [
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
    ]
    others = ["neg", "abs", "getitem", "setitem", "len", "iter", "bool", "float"]
    for name in [*(side + name for name in binary for side in ("", "r", "i")), *others]:

        def refuse(self: Pending, *args: Any) -> Any:
            raise NotFused(self.chain)

        setattr(Pending, f"__{name}__", refuse)


_refuse_operators()


def _block(conv: Any, norm: Any, x: Any, slope: float, window: int) -> Any:
    """The chain as a block; None for a convolution of another kind, or where the block is not for these tensors."""
    stride, same = conv.stride[0], conv.padding == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    if not (
        same
        and conv.kernel_size == (3, 3)
        and conv.stride == (stride, stride)
        and conv.padding_mode == "zeros"
    ):
        return None
    params = conv.weight, conv.bias, norm.weight, norm.bias
    return block_of_any_layout(x, *params, stride, window, norm.eps, slope)


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value
