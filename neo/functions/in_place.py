"""In-place work with torch's meaning, on tensors whose numbers never change.

`x.add_(y)`, `x[i] = v`, `x += y`, `relu(x, inplace=True)` and `out=` in code written for torch (rule 12): the
functional form is computed and recorded as ever; then x, and every other LiteTensor on the same memory (views, what x
is a view of, detached ones), stand for the tensors that torch would have left there. Nobody else sees a change: what a
Policy has saved, and LiteTensors that share x's numbers by value, stay as they were. So gradients are those of the pure
function that the code computes, also where torch.autograd would refuse ("modified by an inplace operation").

Under torch.no_grad the numbers change and the graph does not, as in torch: gradients flow as if nothing was written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd._aliases import aliases_of, detached, forget_aliases, rebind, same_branch, shallow_copy
from neo.autograd._batched import Batch, any_batched
from neo.autograd._identity import overwritten, tracked
from neo.autograd.tensor import LiteTensor
from neo.autograd.torch_code import in_torch_code, may_write
from neo.errors import InPlaceError
from neo.functions._arguments import plain_index
from neo.functions._handlers import handlers
from neo.functions.layouts import expect_no_copy

__all__ = [
    "NeedsLifting",
    "assign",
    "is_in_place",
    "run_again_lifted",
    "set_item",
    "work_in_place",
    "write_operator",
    "write_out",
    "write_result",
]


class _Here(threading.local):
    runs_again = False


_here = _Here()


@contextlib.contextmanager
def run_again_lifted() -> Iterator[None]:
    """Inside, NeedsLifting may be raised: whoever opened this runs the code again."""
    before, _here.runs_again = _here.runs_again, True
    try:
        yield
    finally:
        _here.runs_again = before


class NeedsLifting(BaseException):
    """A plain torch.Tensor that a module made is about to get what a session differentiates: run it again, lifted.

    No Exception, so that no `except Exception` in the module takes it.
    """


def is_in_place(name: str) -> bool:
    """Is this the name of a torch function or method that works in place?"""
    return name in _OPERATORS or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def work_in_place(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], refused: Callable[[], Exception]
) -> Any:
    """Answer a call of torch's in-place function or method of this name; gives its first argument, changed.

    Raises refused() where LiteTensors are values: in the user's own code.
    """
    target = args[0] if args else kwargs.pop(next(iter(kwargs)))  # torch.nn.init gives it by name
    rest = args[1:]
    if not isinstance(target, LiteTensor):
        return _on_plain_tensor(name, target, rest, kwargs, refused)
    if not may_write([target, *aliases_of(target)]):
        raise refused()
    _write(name, target, rest, kwargs, refused)
    return target


def set_item(target: LiteTensor, index: Any, value: Any) -> None:
    """LiteTensor.__setitem__."""
    work_in_place("__setitem__", (target, index, value), {}, _no_assignment)


def _no_assignment() -> InPlaceError:
    return InPlaceError(
        "LiteTensor: x[i] = v would write in place, and a LiteTensor never changes. "
        "Use torch.where(mask, v, x), torch.index_put(x, (i,), v) or torch.scatter(x, dim, index, v)."
    )


def assign(target: LiteTensor, value: Any) -> None:
    """Have `target` hold the numbers of `value`, cast to its dtype, and all tensors on the same memory with it.

    Raises torch's RuntimeError for another shape, for a dtype that does not cast, and for a target that was expanded.
    """
    if value is target:
        return
    expect_no_copy(target)
    if value.shape != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(value.shape)}"
        )
    if value.dtype is not target.dtype:
        if not torch.can_cast(value.dtype, target.dtype):
            raise RuntimeError(
                f"result type {_kind(value.dtype)} can't be cast to the desired output type {_kind(target.dtype)}"
            )
        value = value.to(target.dtype)
    if value.device != target.device:
        value = value.to(target.device)
    others = aliases_of(target)
    if not others:
        _stand_for(target, value, _laid_out_as(target.data, value.data))
        forget_aliases(target)
        return
    batch = Batch.of(target.data)
    if not (batch.holds(other.data for other in others) and batch.takes(value.data)):
        raise InPlaceError(
            "in-place work inside vmap on a tensor that has views, or is one, with what is batched otherwise than it "
            "is not supported, as in torch; use a clone of it, or the functional form of the op"
        )
    _assign_to_all(batch, target, others, value)


def _assign_to_all(batch: Batch, target: LiteTensor, others: list[LiteTensor], value: LiteTensor) -> None:
    """Each tensor on the memory is laid on a new copy of it, and depends on `value` where it overlaps `target`."""
    old = batch.physical(target.data)
    place = _geometry(old)
    if any(step == 0 and size > 1 for size, step in zip(*place[:2], strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )
    if any(other.dtype is not target.dtype for other in others):
        raise InPlaceError(
            f"in-place work on a tensor of {target.dtype} that is also held as another dtype, by view(dtype) or the "
            f"like, is not supported; use a clone"
        )
    count = old.untyped_storage().nbytes() // old.itemsize
    memory = old.as_strided((count,), (1,), 0).clone()
    memory.as_strided(*place).copy_(batch.physical(value.data))
    entries = torch.full((count,), -1, dtype=torch.long, device=old.device)
    numbers = torch.arange(target.numel(), device=old.device)  # inside vmap those of one example
    entries.as_strided(*place).copy_(numbers.view(tuple(target.shape)))
    before = shallow_copy(value)  # `value` may itself lie on this memory
    for other in others:
        lies = _geometry(batch.physical(other.data))
        data, source = batch.slice(memory.as_strided(*lies)), entries.as_strided(*lies)
        if not bool((source >= 0).any()):
            rebind(other, other, data)
        elif same_branch(target, other):
            _stand_for(other, _overlaid(batch, other, before, source), data)
        else:  # detached from one another: the numbers change, the graph does not
            rebind(other, overwritten(other, data), data)
    _stand_for(target, before, batch.slice(memory.as_strided(*place)))


def _overlaid(batch: Batch, other: LiteTensor, value: LiteTensor, source: torch.Tensor) -> LiteTensor:
    """`other` with the entries of `value` in the places where `source` says which, and is not −1."""
    if not torch.is_grad_enabled() or not (tracked(other) or tracked(value)):
        return shallow_copy(other)  # only its numbers change, and those are at hand
    written = source >= 0
    taken: Any = value.reshape((-1,))[batch.slice(source.clamp(min=0))]
    overlaid: Any = taken
    if not bool(written.all()):
        overlaid = torch.where(batch.slice(written), taken, shallow_copy(other))
    return overlaid


def _stand_for(target: LiteTensor, value: LiteTensor, data: torch.Tensor) -> None:
    """`target` becomes `value` on `data`; under no_grad it stays in its place in every graph."""
    rebind(target, value if torch.is_grad_enabled() else overwritten(target, data), data)


def _laid_out_as(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The numbers of `value` with the strides of `target`, which in-place work leaves as they are."""
    if any_batched(target, value) or value.stride() == target.stride():
        return value.detach()
    if any(step == 0 and size > 1 for size, step in zip(target.shape, target.stride(), strict=True)):
        return value.contiguous()
    return torch.empty_strided(target.shape, target.stride(), dtype=value.dtype, device=value.device).copy_(
        value
    )


def _geometry(data: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return tuple(data.shape), tuple(data.stride()), int(data.storage_offset())


def _kind(dtype: torch.dtype) -> str:
    """torch's C++ name of a dtype, as its messages have it."""
    return torch.empty((), dtype=dtype).type().removeprefix("torch.").removesuffix("Tensor")


# --- which op ------------------------------------------------------------------------------------------------

_OPERATORS = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__idiv__": "div",
    "__itruediv__": "div",
    "__ifloordiv__": "floor_divide",
    "__imod__": "remainder",
    "__ipow__": "pow",
    "__iand__": "bitwise_and",
    "__ior__": "bitwise_or",
    "__ixor__": "bitwise_xor",
    "__ilshift__": "bitwise_left_shift",
    "__irshift__": "bitwise_right_shift",
}
_RANDOM = frozenset(
    ["bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_"]
)
_VIEWS = frozenset(["squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"])
_LEFT_OUT = frozenset(  # storage and torch.autograd's own business
    ["apply_", "map_", "map2_", "requires_grad_", "resize_", "resize_as_", "set_", "share_memory_"]
)


def _write(
    name: str,
    target: LiteTensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    refused: Callable[[], Exception],
) -> None:
    if name in _LEFT_OUT:
        raise refused()
    if name == "detach_":
        rebind(target, detached(target))
    elif name in _VIEWS:
        view = getattr(target, name[:-1])(*args, **kwargs)
        rebind(target, view)
    elif name == "__setitem__":
        _set_item(target, *args)
    elif name in _RANDOM:
        drawn = torch.empty_like(target.data)
        getattr(drawn, name)(*(_raw(arg) for arg in args), **{k: _raw(v) for k, v in kwargs.items()})
        assign(target, LiteTensor._wrap(drawn))
    elif name in _WRITERS:
        _WRITERS[name](target, *args, **kwargs)
    else:
        functional = _functional(name)
        if functional is None:
            _write_constant(name, target, args, kwargs, refused)
        else:
            assign(target, functional(shallow_copy(target), *args, **kwargs))


def _functional(name: str) -> Callable[..., Any] | None:
    """The function without the underscore, where Neo has it."""
    plain = _OPERATORS.get(name) or name[:-1]
    for home in (torch.Tensor, F, torch):
        found = getattr(home, plain, None)
        if found in handlers:
            return getattr(LiteTensor, plain, None) or found
    return None


def _write_constant(
    name: str,
    target: LiteTensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    refused: Callable[[], Exception],
) -> None:
    """An op that Neo has no rule for, on tensors that nobody differentiates: torch's own, on a copy."""
    operands = [target, *args, *kwargs.values()]
    if not hasattr(torch.Tensor, name) or any(isinstance(v, LiteTensor) and tracked(v) for v in operands):
        raise refused()
    data = target.data.clone()
    getattr(data, name)(*(_raw(arg) for arg in args), **{k: _raw(v) for k, v in kwargs.items()})
    assign(target, LiteTensor._wrap(data))


def _raw(value: Any) -> Any:
    return value.data if isinstance(value, LiteTensor) else value


def _copy(target: LiteTensor, src: Any, non_blocking: bool = False) -> None:
    source = src if isinstance(src, LiteTensor) else LiteTensor(src)
    if not isinstance(src, LiteTensor) or src.dtype is not target.dtype or src.device != target.device:
        source = source.to(target.device).to(target.dtype)  # copy_ casts as it likes
    assign(target, source if source.shape == target.shape else source.expand(tuple(target.shape)))


def _fill(target: LiteTensor, value: Any) -> None:
    if isinstance(value, LiteTensor | torch.Tensor):
        if value.ndim:
            raise RuntimeError(
                f"fill_ only supports 0-dimension value tensor but got tensor with {value.ndim} dimensions."
            )
        _copy(target, value)
    else:
        assign(target, LiteTensor._wrap(torch.full_like(target.data, value)))


def _fill_diagonal(target: LiteTensor, fill_value: Any, wrap: bool = False) -> None:
    where = torch.zeros_like(target.data, dtype=torch.bool).fill_diagonal_(True, wrap=wrap)
    assign(target, torch.where(where, fill_value, shallow_copy(target)).to(target.dtype))


def _set_item(target: LiteTensor, index: Any, value: Any) -> None:
    """x[index] = value: numbers, slices, None, ..., masks, tensors of places; value broadcasts, and is cast."""
    index = tuple(map(plain_index, index)) if isinstance(index, tuple) else plain_index(index)
    if not (tracked(target) or (isinstance(value, LiteTensor) and tracked(value))):
        data = target.data.clone()
        data[index] = _raw(value)
        assign(target, LiteTensor._wrap(data))
        return
    new = value if isinstance(value, LiteTensor) else LiteTensor(value, dtype=target.dtype)
    new = new.to(target.device).to(target.dtype)
    mask = isinstance(index, torch.Tensor) and index.dtype is torch.bool and index.shape == target.shape
    if (
        mask and new.numel() == 1
    ):  # without counting the entries, so that it works under vmap and needs no GPU to wait
        assign(target, torch.where(index, new.reshape(()), shallow_copy(target)))
        return
    places = torch.arange(target.numel(), device=target.device).view(tuple(target.shape))[index]
    while (
        new.ndim > places.ndim and new.shape[0] == 1
    ):  # as torch has it: leading dims of one number are dropped
        new = new.squeeze(0)
    entries = new.expand(tuple(places.shape)).reshape((-1,))
    flat = torch.index_put(shallow_copy(target).reshape((-1,)), (places.reshape(-1),), entries)
    assign(target, flat.reshape(tuple(target.shape)))


_WRITERS: dict[str, Callable[..., None]] = {
    "copy_": _copy,
    "fill_": _fill,
    "zero_": lambda target: _fill(target, 0),
    "fill_diagonal_": _fill_diagonal,
}


# --- targets that are no LiteTensors, and out= ---------------------------------------------------------------


def _on_plain_tensor(
    name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], refused: Callable[[], Exception]
) -> Any:
    """A torch.Tensor, which is a constant, is written to with LiteTensors among the arguments."""
    values = [value for value in (*args, *kwargs.values()) if isinstance(value, LiteTensor)]
    if isinstance(target, list | tuple):  # torch._foreach_add_ and its like
        raise refused()
    if any(value.is_floating_point() for value in values):
        if in_torch_code() and _here.runs_again:
            raise NeedsLifting
        raise InPlaceError(
            f"torch.Tensor.{name}: the target, shape {tuple(target.shape)}, is a torch.Tensor, which is a constant to "
            f"Neo, and cannot take a LiteTensor. Collect the parts, and join them with torch.stack or torch.cat."
        )
    index = args[0] if args else None
    raw_index = tuple(map(_raw, index)) if isinstance(index, tuple) else _raw(index)
    raw_args = (raw_index, *map(_raw, args[1:])) if args else ()
    return getattr(target, name)(*raw_args, **{key: _raw(value) for key, value in kwargs.items()})


def write_result(target: Any, result: LiteTensor, refused: Callable[[], Exception]) -> Any:
    """inplace=True of a function that gave `result` of `target`; gives `target`, changed."""
    if not isinstance(target, LiteTensor):
        if in_torch_code() and _here.runs_again:
            raise NeedsLifting
        raise refused()
    if not may_write([target, *aliases_of(target)]):
        raise refused()
    assign(target, result)
    return target


def write_out(out: Any, result: Any, refused: Callable[[], Exception]) -> Any:
    """out= of a function that gave `result`; gives `out`, changed. As torch's, it cannot be differentiated."""
    outs, results = (out, result) if isinstance(out, list | tuple) else ((out,), (result,))
    if not may_write([target for target in outs if isinstance(target, LiteTensor)]):
        raise refused()
    if torch.is_grad_enabled() and any(isinstance(v, LiteTensor) and tracked(v) for v in (*outs, *results)):
        raise RuntimeError(
            "functions with out=... arguments don't support automatic differentiation, but one of the arguments "
            "requires grad; use the result, or put the call under torch.no_grad()"
        )
    for target, value in zip(outs, results, strict=True):
        write_result(target, value, refused)
    return out


def write_operator(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x += y and its like in code written for torch."""
    return work_in_place(
        name,
        args,
        kwargs,
        lambda: InPlaceError(
            f"x {_SIGNS.get(name, name)} y in torch's code would change a LiteTensor that was given to it; give it "
            f"x.clone()"
        ),
    )


_SIGNS = {
    "__iadd__": "+=",
    "__isub__": "-=",
    "__imul__": "*=",
    "__itruediv__": "/=",
    "__ifloordiv__": "//=",
    "__imod__": "%=",
    "__ipow__": "**=",
    "__iand__": "&=",
    "__ior__": "|=",
    "__ixor__": "^=",
}
