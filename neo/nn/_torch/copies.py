"""Private copies of a module, with open places where its parameters and buffers go.

A call of the model fills the places of one copy, runs its forward and empties them. The user's module is never
touched, so that an exception leaves nothing behind, and each thread (and each call inside a call) has a copy alone.
"""

from __future__ import annotations

import copy
import operator
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from neo.autograd._batched import is_batched
from neo.autograd._queries import version
from neo.autograd.tensor import LiteTensor
from neo.errors import ConversionError

__all__ = ["Blueprint", "Copy"]


class Absent:
    """Stands where there is no tensor: whatever is done with it is refused by name."""

    said = "forward uses {names}"

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.refusal([self.name])

    @classmethod
    def refusal(cls, names: list[str]) -> ConversionError:
        return ConversionError(
            f"from_torch: {cls.said.format(names=' and '.join(map(repr, names)) or 'an attribute')}"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise cls.refusal([value.name for value in _flat((*args, *(kwargs or {}).values()))])


def _flat(values: Any) -> Iterator[Absent]:
    for value in values:
        if isinstance(value, Absent):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


def _refuse_operators() -> None:
    """Python looks operators up on the class, and would say no more than that there are none."""
    binary = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
    named = [f"__{side}{name}__" for name in binary for side in ("", "r")]
    for name in (*named, "__neg__", "__abs__", "__getitem__", "__len__", "__iter__", "__bool__", "__float__"):

        def refuse(self: Absent, *args: Any) -> Any:
            raise self.refusal([self.name])

        setattr(Absent, name, refuse)


_refuse_operators()


class Place(Absent):
    """Where the tensor of that name goes. Whoever uses it, uses a tensor that could not be filled in."""

    said = (
        "forward uses {names} through another reference than the attribute it is registered under (in a tuple, say). "
        "Use self.<name> in forward; after forward there is none (of neo.checkpoint, say, which runs what it is given "
        "again: put it around the model's call, or take torch.utils.checkpoint with use_reentrant=False)."
    )


class Computed(Absent):
    """Where the module keeps a tensor that it computed from its parameters: old weight_norm's `weight`.

    A forward that computes it anew, as that does in a hook, puts it in its place; one that uses the tensor kept would
    use a constant.
    """

    said = (
        "{names} was computed from parameters when the module was made, and would be a constant. Compute it in "
        "forward."
    )


class Blueprint:
    """A module without its tensors, and the tensors by the names of state_dict; tied ones once, by their first.

    parameters: what is differentiated. constants: buffers, and parameters that do not require grad.
    """

    def __init__(self, module: torch.nn.Module):
        named = dict(module.named_parameters())
        frozen = {name: p for name, p in named.items() if not p.requires_grad}
        self.parameters = {n: p.detach().clone() for n, p in named.items() if n not in frozen}
        self.frozen = {name: p.detach().clone() for name, p in frozen.items()}
        self.buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        self.name = type(module).__name__
        self.tied = _other_names(module)
        places: dict[int, Any] = {
            id(tensor): Place(name) for name, tensor in (*named.items(), *module.named_buffers())
        }
        self._places = list(places.values())
        computed = {id(tensor): Computed(name) for name, tensor in _computed(module)}
        try:
            self._module = copy.deepcopy(module, {**places, **computed})
            rebind(module, self._module)
        except Exception as error:
            raise ConversionError(
                f"from_torch({self.name}): the module cannot be copied ({type(error).__name__}: {error}), and Neo runs "
                f"copies of it; keep what cannot be copied outside of it."
            ) from error

    def build(self, tensors: Mapping[str, Any]) -> torch.nn.Module:
        """A copy of the module with these tensors, by name, in their places; places of others stay open."""
        memo = {id(place): tensors.get(place.name, place) for place in self._places}
        built = copy.deepcopy(self._module, memo)
        rebind(self._module, built)
        return built


class Copy:
    """A copy of a module, to be called with any tensors in its open places."""

    def __init__(self, module: torch.nn.Module, own_layouts: bool = False):
        self.module = module
        self.own_layouts = own_layouts  # whether Neo chooses how images lie, see fusion.py
        self.places: dict[str, list[tuple[Any, Any]]] = {}
        self._empty: list[tuple[Any, Any, Place]] = []
        for container, key, place in _open_places(module):
            self.places.setdefault(place.name, []).append((container, key))
            self._empty.append((container, key, place))
        self._attributes = [
            (table := vars(part), dict(table), [*table.values()]) for part in module.modules()
        ]
        # name -> tensor, the torch tensor behind it, its version and where its numbers lie
        self._filled: dict[str, tuple[Any, Any, int, int]] = {}
        self._kept = list(_containers(module))
        self._contents = [_contents(container) for container in self._kept]

    def fill(self, tensors: Mapping[str, Any]) -> None:
        for name, value in tensors.items():
            if isinstance(value, LiteTensor):  # which gets other data where its numbers are to lie elsewhere
                self._filled[name] = (value, value.data, version(value.data), 0)
            else:
                self._filled[name] = (value, value, version(value), _address(value))
            for container, key in self.places.get(name, ()):
                container[key] = value

    def changed(self) -> list[str]:
        """The names whose tensors forward has replaced, or changed in place."""
        names = []
        for name, (value, data, before, address) in self._filled.items():
            if name not in self.places:
                continue
            now = self.current(name)
            if (
                now is not value
                or (isinstance(now, LiteTensor) and now.data is not data)
                or version(data) != before
                or (address and _address(data) != address)
            ):
                names.append(name)
        return names

    def empty(self) -> None:
        """Drop all tensors, and whatever forward has set on self: the next call starts as the first one did."""
        self._filled = {}
        for container, key, place in self._empty:
            container[key] = place
        for attributes, before, values in self._attributes:
            # By identity, in C: a network has hundreds of attributes, and is called in every inner step.
            if attributes.keys() != before.keys() or not all(map(operator.is_, attributes.values(), values)):
                attributes.clear()
                attributes.update(before)

    def as_made(self) -> bool:
        """Whether forward has left the containers and tensors in attributes as they were; else the copy is spent."""
        return all(
            _contents(container) == before
            for container, before in zip(self._kept, self._contents, strict=True)
        )

    def current(self, name: str) -> Any:
        """The tensor that is now under a name."""
        container, key = self.places[name][0]
        return container[key]


def rebind(original: torch.nn.Module, copied: torch.nn.Module) -> None:
    """Functions in attributes and hooks whose closures hold parts of the original get those of the copy.

    copy.deepcopy takes functions as they are, so that a hook (lambda m, i, o: self.features.append(o)) would go on
    working on the module that it was registered with.
    """
    parts = dict(zip(map(id, original.modules()), copied.modules(), strict=True))
    for part in copied.modules():
        hooks = [
            table for name, table in vars(part).items() if name.endswith("hooks") and isinstance(table, dict)
        ]
        for table in (*hooks, vars(part)):
            for key, value in list(table.items()):
                if isinstance(value, types.FunctionType) and value.__closure__:
                    table[key] = _rebound(value, parts)


def _rebound(function: types.FunctionType, parts: dict[int, Any]) -> types.FunctionType:
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    if not any(id(value) in parts for value in held):
        return function
    cells = tuple(types.CellType(parts.get(id(value), value)) for value in held)
    bound = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    bound.__kwdefaults__ = function.__kwdefaults__
    vars(bound).update(vars(function))
    return bound


def _containers(module: torch.nn.Module) -> Iterator[Any]:
    """What forward could change without putting another in its place: containers, tensors, arrays in attributes."""
    seen: set[int] = set()
    for part in module.modules():
        waiting = [value for name, value in vars(part).items() if name not in _OF_TORCH]
        while waiting:
            value = waiting.pop()
            if (
                isinstance(value, dict | list | set | deque | torch.Tensor | np.ndarray)
                and id(value) not in seen
            ):
                seen.add(id(value))
                yield value
                if isinstance(value, dict):
                    waiting.extend(value.values())
                elif isinstance(value, list | deque):
                    waiting.extend(value)


_OF_TORCH = frozenset(vars(torch.nn.Module()))


def _contents(container: Any) -> Any:
    """What is equal as long as the container is as it was. It holds what it names, so that no id comes again."""
    if isinstance(container, torch.Tensor):
        return version(container), _address(container)
    if isinstance(container, np.ndarray):
        return container.tobytes()
    if isinstance(container, dict):
        return [*map(_Same, container.keys()), *map(_Same, container.values())]
    return [
        _Same(value) for value in (sorted(container, key=id) if isinstance(container, set) else container)
    ]


class _Same:
    """Equal to another of the same object."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _address(data: torch.Tensor) -> int:
    """Where a tensor's numbers lie; 0 where that may not be asked."""
    plain = type(data) in (torch.Tensor, torch.nn.Parameter) and not is_batched(data)
    return data.data_ptr() if plain and data.device.type != "meta" else 0


def _computed(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of what is kept in attributes, and in lists and dicts there, with a gradient's history."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            held = (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, list | tuple)
                else (value,)
            )
            for one in held:
                if isinstance(one, torch.Tensor) and not one.is_leaf:
                    yield f"{prefix}.{name}".removeprefix("."), one


def _open_places(module: torch.nn.Module) -> Iterator[tuple[Any, Any, Place]]:
    """(container, key, place): in the tables of parameters and buffers, in attributes, and in lists and dicts there."""
    for part in module.modules():
        containers: list[Any] = [part._parameters, part._buffers, vars(part)]
        containers += [value for value in vars(part).values() if isinstance(value, list | dict)]
        seen: set[int] = set()
        for container in containers:
            if id(container) in seen:
                continue
            seen.add(id(container))
            entries = container.items() if isinstance(container, dict) else enumerate(container)
            for key, value in list(entries):
                if isinstance(value, Place):
                    yield container, key, value


def _other_names(module: torch.nn.Module) -> dict[str, str]:
    """Of tied tensors, each further name → the first one."""
    first: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        if first.setdefault(id(tensor), name) != name:
            others[name] = first[id(tensor)]
    return others
