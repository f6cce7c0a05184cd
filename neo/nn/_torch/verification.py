"""The check before a converted module's first call: does Neo compute, and differentiate, what torch does?

What torch's own forward of an unchanged copy gives, on the same numbers, is compared with what Neo gives. That shows
up whatever a pure function cannot repeat (an activation changed in place and used again). Torch's graph of that call is
then looked at, never run: it shows parameters that a closure reaches past the copy, stretches under torch.no_grad, and
rules of torch.autograd.Function, all of which would otherwise be silently wrong gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import optree
import torch

from neo.autograd._tape import Tape, TapeContext
from neo.autograd.session import close
from neo.draws import no_draws
from neo.errors import ConversionError, DrawError
from neo.functions.registry import inplace_as_functional, raw
from neo.nn._torch.copies import Copy
from neo.tensor import LiteTensor

__all__ = ["compare"]

# How far two ways of summing may come out apart, relative to the largest entry, in a deep network.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
LOOSE = 0.1  # float16 and bfloat16


def compare(
    label: str,
    ours: Copy,
    theirs: Callable[[dict[str, Any]], torch.nn.Module],
    parameters: dict[str, Any],
    constants: dict[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
) -> None:
    """Raises ConversionError where Neo's call and torch's differ. Leaves torch's default generator as it was.

    ours: adapted for Neo, drops nothing. theirs: builds a copy for torch, likewise, from tensors by name.
    Cost: forward and backward by Neo, forward by torch, and copies of all tensors, once.
    """
    generator = torch.get_rng_state()
    try:
        found, reached = _by_neo(label, ours, parameters, constants, args, kwargs)
    except DrawError:
        return  # dropout called as a function draws: the two would draw apart
    finally:
        torch.set_rng_state(generator)
    leaves = {name: torch.nn.Parameter(_copied(value)) for name, value in parameters.items()}
    inputs: Any = (args, kwargs)
    leaves |= {name: torch.nn.Parameter(_copied(value)) for name, value in _moving(inputs).items()}
    # Copies, or an activation that is the input itself could not be changed in place.
    given = {name: leaf.clone() for name, leaf in leaves.items() if name not in parameters}
    places = iter(given.values())
    fresh: Any = optree.tree_map(
        lambda leaf: next(places) if _moves(leaf) else _copied(leaf) if _is_tensor(leaf) else leaf, inputs
    )
    own = {name: leaf for name, leaf in leaves.items() if name in parameters}
    try:
        module = theirs({**own, **{name: _copied(value) for name, value in constants.items()}})
        with torch.enable_grad():
            expected = module(*fresh[0], **fresh[1])
    except Exception as error:
        error.add_note(f"{label}: raised by torch's own forward, which is run once to check Neo's.")
        raise
    finally:
        torch.set_rng_state(generator)
    _compare_values(label, optree.tree_leaves(found), optree.tree_leaves(expected))
    _compare_graphs(label, optree.tree_leaves(expected), leaves, reached)


def _by_neo(
    label: str, copy: Copy, parameters: dict, constants: dict, args: tuple, kwargs: dict
) -> tuple[Any, set[str]]:
    """Neo's output, and the names of the parameters and arguments that its tape knows it to depend on."""
    tape = Tape()
    inputs: Any = (args, kwargs)
    own = {name: LiteTensor(raw(value)) for name, value in parameters.items()}
    handles = own | {name: LiteTensor(raw(value)) for name, value in _moving(inputs).items()}
    moving = iter([handle for name, handle in handles.items() if name not in own])
    plain: list[torch.Tensor] = []

    def given(leaf: Any) -> Any:
        if _moves(leaf):
            return next(moving)
        if isinstance(leaf, LiteTensor):
            return LiteTensor(_copied(leaf))
        if isinstance(leaf, torch.Tensor):
            plain.append(_copied(leaf))
            return plain[-1]
        return leaf

    lifted: Any = optree.tree_map(given, inputs)
    for handle in handles.values():
        if handle.is_floating_point():
            tape.watch(handle)
    copy.fill({**own, **{name: _copied(value) for name, value in constants.items()}})
    TapeContext.push(tape)
    try:
        with no_draws("no draws while Neo's output is checked"), inplace_as_functional():
            out = copy.module(*lifted[0], **lifted[1])
    finally:
        close(tape)
        copy.empty()
    if any(tensor._version for tensor in plain):
        raise ConversionError(
            f"{label}: forward writes into its input in place, so that a second call would see other numbers. "
            f"Change forward, or give the module x.clone()."
        )
    ends = [leaf for leaf in optree.tree_leaves(out) if _moves(leaf)]
    gradients = tape.gradients(ends, [torch.ones_like(end.data) for end in ends], list(handles.values()))
    return out, {name for name, gradient in zip(handles, gradients, strict=True) if gradient is not None}


def _compare_values(label: str, found: list[Any], expected: list[Any]) -> None:
    if len(found) != len(expected):
        raise ConversionError(f"{label}: Neo gives {len(found)} leaves, torch's own forward {len(expected)}")
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(theirs, torch.Tensor):
            continue
        ours, theirs = raw(ours), theirs.detach()
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise ConversionError(
                f"{label}: output {i} is {ours.dtype}, shape {tuple(ours.shape)}, by Neo, and {theirs.dtype}, shape "
                f"{tuple(theirs.shape)}, by torch's own forward"
            )
        if not theirs.numel():
            continue
        size = float(theirs.abs().nan_to_num(0.0, 0.0, 0.0).max())
        tolerance = TOLERANCES.get(theirs.dtype, LOOSE) if theirs.is_floating_point() else 0.0
        if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * size, equal_nan=True):
            apart = float((ours.to(torch.float64) - theirs.to(torch.float64)).abs().max())
            raise ConversionError(
                f"{label}: output {i} differs from torch's own forward by up to {apart:.3g}, its largest entry being "
                f"{size:.3g}. Either forward changes an activation in place that it uses again elsewhere (x += y, "
                f"inplace=True), which Neo reads as a new tensor: write x = x + y, inplace=False. Or it gives "
                f"another result at each call: then verify=False leaves this check away."
            )


def _compare_graphs(label: str, expected: list[Any], leaves: dict[str, Any], reached: set[str]) -> None:
    """What torch would differentiate, from its graph, against what Neo would."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    known: set[str] = set()
    for node in _nodes(expected):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            raise ConversionError(
                f"{label}: forward calls the torch.autograd.Function {type(node).__name__.removesuffix('Backward')}, "
                f"whose backward Neo does not use. Write it as a neo.autograd.Policy, and call function(it); for "
                f"torch.utils.checkpoint choose use_reentrant=False."
            )
        variable = getattr(node, "variable", None)
        if variable is None:
            continue
        if id(variable) not in names:
            raise ConversionError(
                f"{label}: forward reaches a tensor of shape {tuple(variable.shape)} that requires grad and is no "
                f"parameter of the module's copies: by a closure (a lambda that uses self, say), or as a plain "
                f"attribute. Register it as a torch.nn.Parameter and use it as self.<name>."
            )
        known.add(names[id(variable)])
    if reached - known:
        raise ConversionError(
            f"{label}: torch gives {', '.join(map(repr, sorted(reached - known)))} no gradient, and Neo would: forward "
            f"uses torch.no_grad, which Neo does not see. Use x.detach() there, or set requires_grad=False on them."
        )


def _nodes(outputs: Iterable[Any]) -> Iterable[Any]:
    """Every node of torch's graph behind the outputs."""
    waiting = [out.grad_fn for out in outputs if isinstance(out, torch.Tensor) and out.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(before for before, _ in node.next_functions if before is not None)


def _moving(inputs: Any) -> dict[str, LiteTensor]:
    """The arguments that a session may differentiate, under names that no parameter has."""
    return {f"argument [{i}]": leaf for i, leaf in enumerate(filter(_moves, optree.tree_leaves(inputs)))}


def _moves(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor) and leaf.is_floating_point()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _copied(value: Any) -> torch.Tensor:
    return raw(value).detach().clone()
