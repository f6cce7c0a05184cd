"""Every number argument of every op, given as a tracked 0-dim LiteTensor: what becomes of its gradient (rule 14).

Calls come from torch's operator database and from the signatures of torch's functions and of Neo's own, whose defaults
are numbers too. A gradient is judged by central differences of Neo's own value in that number.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import optree
import torch

from neo import LiteTensor
from neo.autograd import session
from neo.errors import NumberError
from neo.functions import registry
from tests.neo.functions.certificate import ENTRIES, REFLECTED, full_name
from tests.neo.functions.orders import scalar

__all__ = ["Call", "calls_of", "judge"]

STEP = 1e-6
ENTRY_BY_NAME = {full_name(op): op for op in ENTRIES}


class Call(NamedTuple):
    """One op with one of its numbers left open: `fn(v)` puts v in its place."""

    op: str
    argument: str
    value: float | int
    fn: Callable[[Any], Any]


def calls_of(op: Any, samples: int, largest: int = 200) -> Iterator[Call]:
    """The numbers in the first `samples` inputs of a database entry, and those that its signatures have by default."""
    function = REFLECTED.get(op.name, op.op)
    if registry._handlers.get(op.op) is None and op.name not in REFLECTED:
        return
    first = None
    seen: set[tuple[Any, ...]] = set()
    count = 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False):
        tensors = [t for t in optree.tree_leaves((sample.input, sample.args)) if isinstance(t, torch.Tensor)]
        if sum(t.numel() for t in tensors) > largest or any(t.is_complex() for t in tensors):
            continue
        count += 1
        if count > samples:
            break
        args, kwargs = lite((sample.input, *sample.args)), lite(dict(sample.kwargs))
        first = first or (args, kwargs)
        leaves, structure = optree.tree_flatten((args, kwargs), none_is_leaf=True)
        for i, (leaf, path) in enumerate(zip(leaves, structure.paths(), strict=True)):
            if type(leaf) not in (int, float) or not math.isfinite(leaf) or (path, leaf) in seen:
                continue
            seen.add((path, leaf))
            yield Call(
                full_name(op), ".".join(map(str, path[1:])), leaf, opened(function, structure, leaves, i)
            )
    if first is not None:
        yield from by_default(op, function, *first)


def opened(function: Any, structure: Any, leaves: list[Any], place: int) -> Callable[[Any], Any]:
    def fn(value: Any) -> Any:
        args, kwargs = optree.tree_unflatten(structure, [*leaves[:place], value, *leaves[place + 1 :]])
        return function(*args, **kwargs)

    return fn


def by_default(op: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
    """The numbers left at their defaults, by the name under which Neo and torch take them."""
    handler = registry._handlers.get(op.op)
    described = getattr(handler, "__wrapped__", None) or getattr(
        getattr(handler, "policy", None), "forward", None
    )
    signatures = [described, torch.overrides.get_testing_overrides().get(op.op)]
    found: dict[str, Any] = {}
    for signature in filter(None, signatures):
        for i, parameter in enumerate(inspect.signature(signature).parameters.values()):
            given = parameter.name in kwargs or (
                parameter.kind is not parameter.KEYWORD_ONLY and i < len(args)
            )
            if not given and type(parameter.default) in (int, float):
                found.setdefault(parameter.name, parameter.default)
    for name, default in found.items():

        def fn(value: Any, name: str = name) -> Any:
            return function(*args, **kwargs, **{name: value})

        yield Call(full_name(op), name, default, fn)


def lite(tree: Any) -> Any:
    return optree.tree_map(lambda x: LiteTensor(x) if isinstance(x, torch.Tensor) else x, tree)


def judge(call: Call) -> str:
    """ "right", "refused" (naming the argument) or "torch refuses" the value as such; else what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plain = total(call.fn(call.value))
        except Exception as error:
            return f"torch refuses ({type(error).__name__})"
        if plain is None:
            return "right"  # no floating-point result
        argument = LiteTensor(float(call.value), dtype=torch.float64)
        try:
            value, gradient = session.value_and_grad(lambda p: total(call.fn(p)), argnums=0)(argument)
        except NumberError as error:
            named = call.argument.split(".")[0]
            if named.isdigit() or re.search(rf"\b{named}\b", str(error)):
                return "refused"
            return f"blames another argument than {named}: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        slopes = [found for step in (STEP, -STEP) if (found := slope(call, plain, step)) is not None]
        if not slopes:
            return f"gradient {gradient.item()} of what takes whole numbers only"
    if value.item() != plain.item() and abs(value.item() - plain.item()) > 1e-12 * abs(plain.item()):
        return f"value {value.item()}, expected {plain.item()}"
    low, high = min(slopes), max(slopes)  # they differ at a kink
    tolerance = 1e-4 * (1 + abs(low) + abs(high))
    undefined = math.isnan(low) and math.isnan(gradient.item())
    if undefined or low - tolerance <= gradient.item() <= high + tolerance:
        return "right"
    return f"gradient {gradient.item()}, differences {slopes}"


def slope(call: Call, plain: Any, step: float) -> float | None:
    try:
        return (total(call.fn(call.value + step)).item() - plain.item()) / step
    except Exception:
        return None


def total(out: Any) -> Any:
    found = scalar(out)
    if isinstance(found, torch.Tensor):  # plain tensors alone: no session could track this
        return LiteTensor(found)
    return found
