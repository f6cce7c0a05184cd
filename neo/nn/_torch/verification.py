"""The check before a converted module's first call: does Neo compute, and differentiate, what torch does?

A guard, for what no mechanism of Neo's is there for: what torch's own forward of an unchanged copy gives, on the same
numbers, is compared with what Neo gives. Torch's graph of that call is then looked at, never run: it shows parameters
that a closure reaches past the copy, and what torch takes for a constant and Neo would not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from neo import pytree
from neo.autograd._batched import is_batched, one_example
from neo.autograd._queries import autocast_enabled
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd.session._recording import close
from neo.autograd.tensor import LiteTensor
from neo.draws import no_draws, undrawn
from neo.errors import ConversionError, DrawError
from neo.functions.registry import raw
from neo.nn._torch.calls import run_as_torch_code
from neo.nn._torch.copies import Copy
from neo.nn._torch.fusion import Chain, Watch
from neo.nn._torch.tensor_questions import tensor_questions

__all__ = ["compare", "first_example", "watched"]

# How far two ways of summing may come out apart, relative to the largest entry, in a deep network.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
LOOSE = 0.1  # float16 and bfloat16, and all under torch.autocast


def first_example(given: Any) -> Any:
    """A pytree of tensors as it is for the first example, where a vmap around slices some.

    None where there is no number to see: in an empty batch, on the device "meta", under torch's FakeTensorMode.
    """
    leaves, spec = pytree.flatten(given)
    for i, leaf in enumerate(leaves):
        if not _is_tensor(leaf):
            continue
        if leaf.device.type == "meta" or isinstance(raw(leaf), FakeTensor):
            return None
        if not is_batched(raw(leaf)):
            continue
        example = one_example(raw(leaf))
        if example is None:
            return None
        leaves[i] = LiteTensor(example) if isinstance(leaf, LiteTensor) else example
    return pytree.unflatten(spec, leaves)


def compare(
    label: str,
    ours: Copy,
    theirs: Callable[[dict[str, Any]], torch.nn.Module],
    parameters: dict[str, Any],
    constants: dict[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
    lifts: bool,
) -> None:
    """Raises ConversionError where Neo's call and torch's differ. Leaves torch's default generator as it was.

    ours: adapted for Neo, drops nothing. theirs: builds a copy for torch, likewise, from tensors by name.
    lifts: see run_as_torch_code, whose errors this raises too.
    Cost: forward and backward by Neo, forward by torch, and copies of all tensors, once.
    """
    generator = torch.get_rng_state()
    try:
        try:
            found, reached = _by_neo(label, ours, parameters, constants, args, kwargs, lifts)
        except Exception as error:
            if not isinstance(error, DrawError) and (asked := _asked(ours.module)):
                error.add_note(f"{label}:{asked}")
            raise
        again = reached
        if ours.as_made():  # the next call would run the same copy
            _, again = _by_neo(label, ours, parameters, constants, args, kwargs, lifts)
    except DrawError:
        return  # dropout called as a function draws: the two would draw apart
    finally:
        torch.set_rng_state(generator)
    if again != reached:
        raise ConversionError(
            f"{label}: a second call does not depend on {', '.join(map(repr, sorted(reached - again)))}, on which the "
            f"first one does: forward keeps what it has computed (functools.lru_cache, a global), which is a constant "
            f"to the next session. Compute it at each call."
        )
    leaves = {name: torch.nn.Parameter(_copied(value)) for name, value in parameters.items()}
    inputs: Any = (args, kwargs)
    leaves |= {name: torch.nn.Parameter(_copied(value)) for name, value in _moving(inputs).items()}
    # Copies, or an activation that is the input itself could not be changed in place.
    given = {name: leaf.clone() for name, leaf in leaves.items() if name not in parameters}
    places = iter(given.values())
    fresh: Any = pytree.tree_map(
        lambda leaf: next(places) if _moves(leaf) else _copied(leaf) if _is_tensor(leaf) else leaf, inputs
    )
    own = {name: leaf for name, leaf in leaves.items() if name in parameters}
    try:
        module = theirs({**own, **{name: _copied(value) for name, value in constants.items()}})
        with torch.enable_grad(), undrawn():
            expected = module(*fresh[0], **fresh[1])
    except Exception as error:
        error.add_note(f"{label}: raised by torch's own forward, which is run once to check Neo's.")
        raise
    finally:
        torch.set_rng_state(generator)
    try:
        _compare_values(label, pytree.leaves(found), pytree.leaves(expected))
    except ConversionError as error:
        raise ConversionError(f"{error}{_asked(module)}") from None
    _compare_graphs(label, pytree.leaves(expected), leaves, reached)


def watched(
    copy: Copy,
    watch: Watch,
    parameters: Mapping[str, Any],
    constants: Mapping[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
    lifts: bool,
) -> tuple[Chain, ...]:
    """The chains of layers that one call shows; () where dropout called as a function has nothing to draw from."""
    generator = torch.get_rng_state()
    given: Any = pytree.tree_map(
        lambda leaf: _copied_alike(leaf) if _is_tensor(leaf) else leaf, (args, kwargs)
    )
    own = {name: LiteTensor(raw(value)) for name, value in parameters.items()}
    buffers = {name: _copied(value) for name, value in constants.items()}
    try:
        with no_draws("no draws while a module is watched"), watch:
            run_as_torch_code(copy, own, buffers, given[0], given[1], lifts)
    except DrawError:
        return ()
    finally:
        torch.set_rng_state(generator)
    return watch.chains()


def _by_neo(
    label: str, copy: Copy, parameters: dict, constants: dict, args: tuple, kwargs: dict, lifts: bool
) -> tuple[Any, set[str]]:
    """Neo's output, and the names of the parameters and arguments that its tape knows it to depend on."""
    tape = Tape()
    inputs: Any = (args, kwargs)
    own = {name: LiteTensor(raw(value)) for name, value in parameters.items()}
    tensors = own | {name: LiteTensor(raw(value)) for name, value in _moving(inputs).items()}
    moving = iter([tensor for name, tensor in tensors.items() if name not in own])
    given: Any = pytree.tree_map(
        lambda leaf: next(moving) if _moves(leaf) else _copied_alike(leaf) if _is_tensor(leaf) else leaf,
        inputs,
    )
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tape.watch(tensor)
    TapeContext.push(tape)
    try:
        with no_draws("no draws while Neo's output is checked"):
            buffers = {name: _copied(value) for name, value in constants.items()}
            out = run_as_torch_code(copy, own, buffers, given[0], given[1], lifts)
    finally:
        close(tape)
        copy.empty()
    ends = [leaf for leaf in pytree.leaves(out) if _moves(leaf)]
    gradients = tape.gradients(ends, [torch.ones_like(end.data) for end in ends], list(tensors.values()))
    return out, {name for name, gradient in zip(tensors, gradients, strict=True) if gradient is not None}


def _asked(module: torch.nn.Module) -> str:
    """Of a module that went another way than torch's: the questions that may have led it there."""
    lines = tensor_questions(module)
    if not lines:
        return ""
    return (
        " Its code asks for torch's tensors by their type, which Neo's are not (torch.overrides.is_tensor_like(x) is "
        "true of both): " + "; ".join(lines)
    )


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
        exact = (
            {} if autocast_enabled() else TOLERANCES
        )  # float32 there is float32 of what half precision left
        tolerance = exact.get(theirs.dtype, LOOSE) if theirs.is_floating_point() else 0.0
        if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * size, equal_nan=True):
            apart = float((ours.to(torch.float64) - theirs.to(torch.float64)).abs().max())
            raise ConversionError(
                f"{label}: output {i} differs from torch's own forward by up to {apart:.3g}, its largest entry being "
                f"{size:.3g}. If forward gives another result at each call, verify=False leaves this check away."
            )


def _compare_graphs(label: str, expected: list[Any], leaves: dict[str, Any], reached: set[str]) -> None:
    """What torch would differentiate, from its graph, against what Neo would."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    known: set[str] = set()
    for node in _nodes(expected):
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
            f"{label}: torch gives {', '.join(map(repr, sorted(reached - known)))} no gradient, and Neo would. Where "
            f"forward uses x.data or torch.autograd's own switches, use x.detach() or torch.no_grad() instead."
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
    return {f"argument [{i}]": leaf for i, leaf in enumerate(filter(_moves, pytree.leaves(inputs)))}


def _moves(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor) and leaf.is_floating_point()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _copied_alike(value: Any) -> Any:
    return LiteTensor(_copied(value)) if isinstance(value, LiteTensor) else _copied(value)


def _copied(value: Any) -> torch.Tensor:
    return raw(value).detach().clone()
