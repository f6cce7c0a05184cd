"""Pytrees as all of Neo flattens them: optree's containers, and dataclasses.

An instance of a dataclass that holds tensors is a container of its fields; its class is registered with optree under
Neo's own namespace the first time one is met, so that other users of optree see no difference. So are classes that
are registered with torch.utils._pytree (transformers' ModelOutput for one). Any other object is a leaf; a LiteTensor
inside one would be a constant without anybody noticing, so that `flatten` refuses it where gradients are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import optree
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as torch_pytree

__all__ = ["NAMESPACE", "flatten", "leaves", "place", "register_tensor", "structure", "tree_map", "unflatten"]

NAMESPACE = "neo"
"""Of optree's registry: where Neo registers classes. optree.tree_map(f, tree, namespace=neo.pytree.NAMESPACE)."""

Where = tuple[str, str | int]
"""(name of the function, position of its argument or "output"): what an error says."""

_LEAF: optree.PyTreeSpec = optree.treespec_leaf()
# Leaves with nothing in them to look for. Functions are among them: what they close over is a constant (rule 2).
_PLAIN = frozenset(
    (
        *(
            torch.Tensor,
            torch.nn.Parameter,
            torch.dtype,
            torch.device,
            torch.Size,
            torch.Generator,
        ),
        *(bool, int, float, complex, str, bytes, range, slice, type(None), type(...), type, types.ModuleType),
        *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial),
        *(np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64),
    )
)
_tensor: type = type("Unregistered", (), {})  # LiteTensor, which register_tensor names
_LOOKS = 10_000  # values looked at inside one object, so that a data set passed along costs no time
_lock = threading.Lock()

# The commonest tree is a dict of tensors by name, of which optree sorts the names anew each time: 2 µs for six. So the
# structure of such a dict is kept by its keys, with the function that gets its values in the structure's order.
_Structure = tuple[optree.PyTreeSpec, Callable[[dict[str, Any]], Iterable[Any]]]
_tensor_alone: frozenset[type] = frozenset((_tensor,))
_structures: dict[tuple[str, ...], _Structure] = {}
_MOST_STRUCTURES = 1024


def register_tensor(cls: type) -> None:
    """Say which class is the engine's tensor: a leaf, which must not hide in objects that are no pytrees."""
    global _tensor, _tensor_alone, _PLAIN
    _tensor, _tensor_alone, _PLAIN = cls, frozenset((cls,)), _PLAIN | {cls}


def flatten(
    tree: Any, *, none_is_leaf: bool = False, where: Where | None = None
) -> tuple[list[Any], optree.PyTreeSpec]:
    """The leaves of a tree, and its structure.

    where: whose gradients are asked for; then an object that is no pytree and holds floating-point LiteTensors raises
    TypeError, which names it and says what to do. Without it such an object is a leaf like any other.
    """
    if isinstance(tree, _tensor):
        return [tree], _LEAF
    if type(tree) is dict and not none_is_leaf and _tensor_alone.issuperset(map(type, tree.values())):
        keys = tuple(tree)
        known = _structures.get(keys) or _keep_structure(tree, keys)
        if known is not None:
            spec, values_of = known
            return list(values_of(tree)), spec
    found, spec = optree.tree_flatten(tree, none_is_leaf=none_is_leaf, namespace=NAMESPACE)
    if _PLAIN.issuperset(map(type, found)):
        return found, spec
    if any(_register(leaf) for leaf in found):
        return flatten(tree, none_is_leaf=none_is_leaf, where=where)
    if where is not None:
        for i, leaf in enumerate(found):
            _refuse_hidden(leaf, spec, i, where)
    return found, spec


def _keep_structure(tree: Any, keys: tuple[Any, ...]) -> _Structure | None:
    """Add the structure of a dict of tensors to those that are kept; None where its keys are not all words."""
    if not all(type(key) is str for key in keys):
        return None
    if len(_structures) >= _MOST_STRUCTURES:
        _structures.clear()
    spec = optree.tree_structure(tree, namespace=NAMESPACE)
    in_order = sorted(keys)
    kept = (spec, dict.values if list(keys) == in_order else operator.itemgetter(*in_order))
    _structures[keys] = kept
    return kept


def unflatten(spec: optree.PyTreeSpec, new_leaves: Iterable[Any]) -> Any:
    """The tree of this structure with these leaves. No dataclass's __init__ or __post_init__ runs."""
    if spec is _LEAF:
        (leaf,) = new_leaves
        return leaf
    return spec.unflatten(new_leaves)


def leaves(tree: Any) -> list[Any]:
    return flatten(tree)[0]


def structure(tree: Any) -> optree.PyTreeSpec:
    return flatten(tree)[1]


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """fn of each leaf, and of the counterparts in `others`, which must have the structure of tree up to its leaves.

    Raises: ValueError where they do not.
    """
    first, spec = flatten(tree)
    if not others:
        return unflatten(spec, map(fn, first))
    return unflatten(spec, map(fn, first, *(leaves_of(spec, other) for other in others)))


def leaves_of(spec: optree.PyTreeSpec, tree: Any) -> list[Any]:
    """What in `tree` stands where a tree of this structure has its leaves. Raises: ValueError where it has another."""
    if type(tree) is dict:
        known = _structures.get(tuple(tree))
        if known is not None and known[0] is spec:
            return list(known[1](tree))
    return spec.flatten_up_to(tree)


def place(spec: optree.PyTreeSpec, i: int, where: Where) -> str:
    """How an error names leaf number i: "grad of f: argument 0['w'][1]"."""
    name, position = where
    root = "the output" if position == "output" else f"argument {position}"
    return f"{name}: {root}{spec.accessors()[i].codify('')}"


# --- classes that become containers ----------------------------------------------------------------------------------


def _register(leaf: Any) -> bool:
    """Register the class of a leaf that is a container to Neo and not yet to optree. Whether it was."""
    cls = type(leaf)
    if cls in _PLAIN:
        return False
    if cls in torch_pytree.SUPPORTED_NODES:
        node = torch_pytree.SUPPORTED_NODES[cls]
        return _put(cls, node.flatten_fn, lambda context, parts: node.unflatten_fn(list(parts), context))
    if dataclasses.is_dataclass(cls) and next(_inside(leaf, (_tensor, torch.Tensor)), None) is not None:
        return _put(cls, _fields_of, functools.partial(_remade, cls), path_entry_type=optree.GetAttrEntry)
    return False


def _put(cls: type, flatten_fn: Callable[..., Any], unflatten_fn: Callable[..., Any], **options: Any) -> bool:
    with _lock:
        if not optree.register_pytree_node.get(
            cls, namespace=NAMESPACE
        ):  # another thread may have been faster
            optree.register_pytree_node(cls, flatten_fn, unflatten_fn, namespace=NAMESPACE, **options)
    return True


def _register_packed_sequence() -> None:
    """A named tuple by its base, whose constructor refuses what a gradient of it has: None for sizes and orders."""
    with (
        warnings.catch_warnings()
    ):  # that optree would take it for a named tuple, which is what this is about
        warnings.simplefilter("ignore", UserWarning)
        optree.register_pytree_node(
            PackedSequence,
            lambda packed: (
                tuple(packed),
                None,
                ("data", "batch_sizes", "sorted_indices", "unsorted_indices"),
            ),
            lambda _, parts: tuple.__new__(PackedSequence, parts),
            namespace=NAMESPACE,
            path_entry_type=optree.GetAttrEntry,
        )


_register_packed_sequence()


class _Rest:
    """What an instance carries beside its leaves: no part of the structure, so that all of one class compare equal."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest)

    def __hash__(self) -> int:
        return 0


def _fields_of(value: Any) -> tuple[list[Any], tuple[tuple[str, ...], _Rest], tuple[str, ...]]:
    names, rest = [], _Rest()
    for field in dataclasses.fields(value):
        if not hasattr(value, field.name):
            continue
        static = field.metadata.get("static", False) or not field.metadata.get("pytree_node", True)
        if static:
            rest.attributes[field.name] = getattr(value, field.name)
        else:
            names.append(field.name)
    for name, attribute in getattr(value, "__dict__", {}).items():
        cached = isinstance(getattr(type(value), name, None), functools.cached_property)
        if name not in names and not cached:  # a cached value is of the old leaves
            rest.attributes[name] = attribute
    _refuse_derived(value, rest)
    return [getattr(value, name) for name in names], (tuple(names), rest), tuple(names)


def _remade(cls: type, metadata: tuple[tuple[str, ...], _Rest], children: Iterable[Any]) -> Any:
    """Without __init__, which may refuse what stands in place of tensors: gradients, None, dims."""
    names, rest = metadata
    if issubclass(cls, dict):  # a dataclass that is a mapping of its fields, as transformers' outputs are
        return cls(**dict(zip(names, children, strict=True)))
    made: Any = object.__new__(cls)
    for name, value in (*rest.attributes.items(), *zip(names, children, strict=True)):
        object.__setattr__(made, name, value)
    return made


def _refuse_derived(value: Any, rest: _Rest) -> None:
    fields = {field.name for field in dataclasses.fields(value)}
    for name, attribute in rest.attributes.items():
        if name not in fields:
            for path in _inside(attribute, _tensor, f".{name}"):
                raise TypeError(
                    f"{type(value).__name__}{path} is a LiteTensor and belongs to no field of the dataclass, so that a "
                    f"session would take it for a constant. Make it a field, or a functools.cached_property."
                )


# --- objects that are none -------------------------------------------------------------------------------------------


def _refuse_hidden(leaf: Any, spec: optree.PyTreeSpec, i: int, where: Where) -> None:
    if type(leaf) in _PLAIN:
        return
    for path in _inside(leaf, _tensor):
        kind = type(leaf).__qualname__
        raise TypeError(
            f"{place(spec, i, where)} is a {kind}, which is no pytree, and holds a LiteTensor at {path}, which "
            f"would be a constant to the session. Make {kind} a dataclass or a NamedTuple, register it with "
            f"optree.register_pytree_node({kind}, ..., namespace='neo'), or pass its tensors in a dict; what is "
            f"meant to be constant goes in as a keyword argument or stays out of argnums."
        )


def _inside(value: Any, kinds: Any, path: str = "", depth: int = 4) -> Iterator[str]:
    """Where in `value` there are tensors of these kinds, floating-point ones: ".weights['w']"."""
    budget = [_LOOKS]
    return _search(value, kinds, path, depth, set(), budget)


def _search(
    value: Any, kinds: Any, path: str, depth: int, seen: set[int], budget: list[int]
) -> Iterator[str]:
    budget[0] -= 1
    if isinstance(value, kinds):
        if value.is_floating_point():
            yield path
        return
    if budget[0] < 0 or depth < 0 or type(value) in _PLAIN or isinstance(value, torch.Tensor | type):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for step, part in _parts(value):
        yield from _search(part, kinds, path + step, depth - 1, seen, budget)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            yield from ((f"[{i}]", part) for i, part in enumerate(value.flat))
        return
    yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items()))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)
