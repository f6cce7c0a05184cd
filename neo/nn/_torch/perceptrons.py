"""Linear layers of an nn.Sequential, with activations between them, that a converted module runs as one op.

Nothing of the module sees what lies within: nn.Sequential hands each output to the next layer alone. So the layers are
found by looking at them, where fusion.py has to watch a call.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks

from neo.autograd.tensor import LiteTensor
from neo.functions.perceptron import perceptron
from neo.nn._torch.fusion import is_plain

__all__ = ["Layers", "Whole", "layers_of", "run_as_one"]

LETTERS: dict[type, str] = {nn.ReLU: "r", nn.Tanh: "t", nn.Sigmoid: "s"}
SAID = {"r": "ReLU", "t": "tanh", "s": "sigmoid"}
_TENSORS = frozenset((torch.Tensor, LiteTensor))


class Layers(NamedTuple):
    """Two linear layers or more that follow each other in a Sequential, with what stands after each."""

    sequential: str  # its name
    first: int  # of its layers
    last: int
    linear: tuple[str, ...]  # names
    kinds: str  # a letter for each, see neo.functions.perceptron

    def __str__(self) -> str:
        named = zip(self.linear, self.kinds, strict=True)
        return " + ".join(part for name, kind in named for part in (name, SAID.get(kind)) if part)


def layers_of(module: nn.Module) -> tuple[Layers, ...]:
    """All such layers of a module."""
    return tuple(
        found
        for name, part in module.named_modules()
        if type(part) is nn.Sequential and is_plain(part)
        for found in _within(name, part)
    )


def _within(name: str, sequential: nn.Sequential) -> Iterator[Layers]:
    names, parts = list(sequential._modules), list(sequential)
    at = 0
    while at < len(parts):
        first, linear, kinds = at, [], ""
        while at < len(parts) and _affine(parts[at]):
            linear.append(f"{name}.{names[at]}".removeprefix("."))
            at += 1
            kind = LETTERS.get(type(parts[at]), "-") if at < len(parts) and is_plain(parts[at]) else "-"
            kinds += kind
            at += kind != "-"
        if len(linear) > 1:
            yield Layers(name, first, at - 1, tuple(linear), kinds)
        at += at == first


def _affine(part: Any) -> bool:
    return type(part) is nn.Linear and is_plain(part) and part._parameters.get("bias") is not None


def run_as_one(module: nn.Module, found: Iterable[Layers]) -> None:
    """Have each Sequential of a copy run these of its layers as one op."""
    of: dict[str, list[Layers]] = {}
    for layers in found:
        of.setdefault(layers.sequential, []).append(layers)
    for name, several in of.items():
        sequential: Any = module.get_submodule(name)
        parts: list[Any] = list(sequential)
        for layers in reversed(several):
            inside = parts[layers.first : layers.last + 1]
            parts[layers.first : layers.last + 1] = [functools.partial(_as_one, layers.kinds, inside)]
        vars(sequential)["forward"] = functools.partial(_one_after_the_other, parts)


def _one_after_the_other(parts: list[Any], x: Any) -> Any:
    for part in parts:
        x = part(x)
    return x


def _as_one(kinds: str, inside: list[Any], x: Any) -> Any:
    linear = [part for part in inside if type(part) is nn.Linear]
    layers = [*(part.weight for part in linear), *(part.bias for part in linear)]
    if type(x) not in _TENSORS or not _TENSORS.issuperset(map(type, layers)) or _watched():
        return _one_after_the_other(inside, x)
    if x.ndim > 2:
        return perceptron(kinds, x.flatten(0, -2), *layers).reshape(
            (*x.shape[:-1], layers[len(kinds) - 1].shape[0])
        )
    return perceptron(kinds, x, *layers)


class Whole(NamedTuple):
    """A module that is nothing but such layers, as a function of (params, x): without a copy of it."""

    kinds: str
    names: tuple[str, ...]  # of all weights, then of all biases

    @classmethod
    def of(cls, module: nn.Module, found: tuple[Layers, ...], params: Mapping[str, Any]) -> Whole | None:
        """None where the module has more to it, or other parameters."""
        if len(found) != 1 or found[0].sequential or found[0].last + 1 != len(list(module.children())):
            return None
        names = tuple(f"{name}.{kind}" for kind in ("weight", "bias") for name in found[0].linear)
        return cls(found[0].kinds, names) if {*names} == {*params} else None

    def __call__(self, params: Any, x: Any) -> Any:
        """NotImplemented for what the module itself has to answer."""
        if type(x) not in _TENSORS or x.ndim != 2 or _watched():
            return NotImplemented
        return perceptron(self.kinds, x, *[params[name] for name in self.names])


def _watched() -> bool:
    """Is there a hook that torch calls for every module?"""
    return bool(hooks._global_forward_hooks or hooks._global_forward_pre_hooks)
