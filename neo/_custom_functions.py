"""torch.autograd.Function on LiteTensors: a Policy made of its own forward and backward (rule 11).

torch's `apply` hands LiteTensors to forward and never calls backward, since to torch they are no tensors, so that Neo
has to answer it. It does so in the code of `torch.autograd.Function.apply` itself, for many modules hold that under a
name of their own (`ste = Round.apply`), taken before Neo was imported. With no LiteTensor among the arguments nothing
changes.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from typing import Any

import optree
import torch

from neo.autograd._aliases import shallow_copy
from neo.autograd._batched import Batch, is_batched
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.autograd.torch_code import may_write, torch_code
from neo.errors import GradientError, InPlaceError
from neo.functions.in_place import assign
from neo.functions.lifting import Lifting

__all__ = ["CustomFunction", "FunctionContext", "apply", "install"]

Source = Any  # a subclass of torch.autograd.Function


class FunctionContext:
    """`ctx` of a torch.autograd.Function: torch's methods, and whatever attributes forward sets."""

    def __init__(self, needs_input_grad: tuple[bool, ...], saved: tuple[Any, ...] = ()):
        self._own = _Own(needs_input_grad, saved)

    needs_input_grad = property(lambda self: self._own.needs_input_grad)
    saved_tensors = property(lambda self: self._own.saved)
    saved_variables = saved_tensors
    dirty_tensors = property(lambda self: self._own.dirty)
    non_differentiable = property(lambda self: self._own.non_differentiable)
    materialize_grads = property(lambda self: self._own.materialize)

    def save_for_backward(self, *tensors: Any) -> None:
        self._own.saved = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        self._own.saved_for_forward = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        self._own.dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self._own.non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        self._own.materialize = value


class _Own:
    """What a FunctionContext holds beside its user's attributes."""

    def __init__(self, needs_input_grad: tuple[bool, ...], saved: tuple[Any, ...]):
        self.needs_input_grad, self.saved = needs_input_grad, saved
        self.saved_for_forward: tuple[
            Any, ...
        ] = ()  # what Function.jvp finds as saved_tensors, if there are any
        self.dirty: tuple[Any, ...] = ()
        self.non_differentiable: tuple[Any, ...] = ()
        self.materialize = True


class _Call:
    """One call of apply: what is no tensor among its arguments, and how its outputs are put together."""

    def __init__(self, source: Source, args: tuple[Any, ...]):
        self.source, self.count = source, len(args)
        everything: Any = args
        leaves, self.spec = optree.tree_flatten(everything, none_is_leaf=True)
        self.places_in = [i for i, leaf in enumerate(leaves) if isinstance(leaf, LiteTensor | torch.Tensor)]
        self.leaves = [None if i in self.places_in else leaf for i, leaf in enumerate(leaves)]
        # Of each tensor, which argument it is; None for those in lists and dicts, to which backward gives no gradient.
        paths = self.spec.paths()
        self.positions = [paths[i][0] if len(paths[i]) == 1 else None for i in self.places_in]
        self.tensors = [leaves[i] for i in self.places_in]
        self.shapes = [tuple(tensor.shape) for tensor in self.tensors]
        self.writes = _mentions(source, "mark_dirty")
        self.outputs: list[Any] = []  # what is no tensor among the outputs; None where a tensor goes
        self.places: list[int] = []  # of the tensors among the outputs
        self.single = True
        self.constant: list[int] = []  # outputs that forward marked as not differentiable
        self.dirty: dict[int, int] = {}  # output -> the argument that was changed in place to it

    def take_tensors(self) -> list[Any]:
        """The tensors among the arguments, which are the Policy's to keep."""
        tensors, self.tensors = self.tensors, []
        return tensors

    def run(self, ctx: FunctionContext, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        """forward on tensors; gives the tensors among its outputs."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places_in, tensors, strict=True):
            leaves[place] = tensor
        args: Any = optree.tree_unflatten(self.spec, leaves)
        source = self.source
        if _has_setup_context(source):
            batched = [value for value in tensors if isinstance(value, torch.Tensor) and is_batched(value)]
            own_rule = batched and source.vmap is not torch.autograd.Function.vmap
            output = _by_vmap_rule(source, args, batched[0]) if own_rule else source.forward(*args)
            source.setup_context(ctx, args, output)
        else:
            output = source.forward(ctx, *args)
        self.single = not isinstance(output, tuple)
        outputs = (output,) if self.single else output
        self.places = [i for i, out in enumerate(outputs) if isinstance(out, torch.Tensor | LiteTensor)]
        self.outputs = [None if i in self.places else out for i, out in enumerate(outputs)]
        self.constant = [i for i in self.places if _among(outputs[i], ctx.non_differentiable)]
        self.dirty = {i: place for i in self.places for place, arg in enumerate(args) if arg is outputs[i]}
        self.dirty = {i: place for i, place in self.dirty.items() if _among(outputs[i], ctx.dirty_tensors)}
        return tuple(outputs[i] for i in self.places)

    def assembled(self, tensors: tuple[LiteTensor, ...]) -> Any:
        """What apply gives back."""
        outputs = list(self.outputs)
        for place, tensor in zip(self.places, tensors, strict=True):
            outputs[place] = tensor.detach() if place in self.constant else tensor
        return outputs[0] if self.single else tuple(outputs)


class _Saved:
    """How to make a FunctionContext for backward, or for jvp, of what the Policy saved."""

    def __init__(self, ctx: FunctionContext):
        attributes: Any = {name: value for name, value in vars(ctx).items() if name != "_own"}
        leaves, self.spec = optree.tree_flatten(attributes, none_is_leaf=True)
        self.count, self.for_forward = len(ctx.saved_tensors), len(ctx._own.saved_for_forward)
        everything = [*ctx.saved_tensors, *ctx._own.saved_for_forward, *leaves]
        self.places = [i for i, leaf in enumerate(everything) if isinstance(leaf, torch.Tensor | LiteTensor)]
        self.tensors = [everything[i] for i in self.places]
        self.rest = [None if i in self.places else leaf for i, leaf in enumerate(everything)]

    def take_tensors(self) -> list[Any]:
        """The tensors, which are the Policy's to keep."""
        tensors, self.tensors = self.tensors, []
        return tensors

    def context(
        self, tensors: tuple[Any, ...], needs_input_grad: tuple[bool, ...], forward: bool = False
    ) -> FunctionContext:
        everything = list(self.rest)
        for place, tensor in zip(self.places, tensors, strict=True):
            everything[place] = tensor
        end = self.count + self.for_forward
        found = everything[self.count : end] if forward and self.for_forward else everything[: self.count]
        ctx = FunctionContext(needs_input_grad, tuple(found))
        attributes: Any = optree.tree_unflatten(self.spec, everything[end:])
        vars(ctx).update(attributes)
        return ctx

    def objects(self) -> list[Any]:
        """What forward has set on ctx that is no tensor: objects and functions, in which there may be some."""
        return [leaf for leaf in self.rest[self.count + self.for_forward :] if leaf is not None]


class CustomFunction(Policy):
    """y = F.forward(x);  x̄ = F.backward(ȳ), for a torch.autograd.Function F; ẏ = F.jvp(ẋ) where F has one.

    Second order is that of the ops of F.backward. A tensor that F.forward computes and saves is differentiated through,
    by running F.forward again; torch takes it for a constant there.
    """

    broadcasts = True  # as torch, which sums and casts the gradients to their inputs

    def forward(self, call, *tensors):
        ctx = FunctionContext(_spread(self.ctx.needs_grad, call))
        given = tensors
        if call.writes:  # into an argument, which belongs to others
            given = tuple(tensor.clone() for tensor in tensors)
        replayed = any(isinstance(tensor, LiteTensor) for tensor in tensors)
        with torch_code(), contextlib.nullcontext() if replayed else torch.no_grad():
            outputs = call.run(ctx, given)
        self.materialize = ctx.materialize_grads
        self.saved = _Saved(ctx)
        self.pushes = call.source.jvp is not torch.autograd.Function.jvp and not call.writes
        originals = dict(zip(map(id, given), tensors, strict=True)) if call.writes else {}
        kept = [
            tensor if _among(tensor, ctx.dirty_tensors) else originals.get(id(tensor), tensor)
            for tensor in self.saved.take_tensors()
        ]
        self.ctx_objects = self.saved.objects()  # where a higher order looks for tensors that it would miss
        self.ctx.save(call, *kept)
        return outputs

    def backward(self, *cotangents):
        call, *tensors = self.ctx.release
        source, needed = call.source, _spread(self.ctx.needs_grad, call)
        lifted = any(isinstance(tensor, LiteTensor) for tensor in (*cotangents, *tensors))
        if lifted:
            _refuse_first_order_only(source)
        given: list[Any] = [None] * len(call.outputs)
        for place, cotangent in zip(call.places, cotangents, strict=True):
            given[place] = cotangent
        ctx = self.saved.context(tuple(tensors), needed)
        rule = source.backward if source.backward is not torch.autograd.Function.backward else source.vjp
        with torch_code(), Lifting() if lifted else contextlib.nullcontext():
            result = rule(ctx, given) if getattr(source, "boxed_grads_call", False) else rule(ctx, *given)
        gradients = list(result) if isinstance(result, tuple | list) else [result]
        if len(gradients) < call.count or any(extra is not None for extra in gradients[call.count :]):
            raise GradientError(
                f"{source.__name__}.backward: expected {call.count} gradients, one per argument of forward, got "
                f"{len(gradients)}. Return None where there is no gradient."
            )
        found = tuple(None if position is None else gradients[position] for position in call.positions)
        for i, (gradient, shape) in enumerate(zip(found, call.shapes, strict=True)):
            if gradient is not None and not _sums_to(tuple(gradient.shape), shape):
                raise GradientError(
                    f"{source.__name__}.backward: the gradient of tensor {i} has shape {tuple(gradient.shape)}, "
                    f"expected {shape}, the shape of its input"
                )
        return found

    @property
    def jvp(self) -> Any:
        """None where the Function has no jvp: its tangents come of backward."""
        return self.push_forward if self.pushes else None

    def push_forward(self, *dots):
        call, *tensors = self.ctx.release
        source, given = call.source, [None] * call.count
        for position, dot in zip(call.positions, dots, strict=True):
            if position is not None:
                given[position] = dot
        ctx = self.saved.context(tuple(tensors), _spread(self.ctx.needs_grad, call), forward=True)
        lifted = any(isinstance(tensor, LiteTensor) for tensor in (*dots, *tensors))
        with torch_code(), Lifting() if lifted else contextlib.nullcontext():
            result = source.jvp(ctx, *given)
        tangents = list(result) if isinstance(result, tuple | list) else [result]
        if len(tangents) != len(call.outputs):
            raise GradientError(
                f"{source.__name__}.jvp: expected {len(call.outputs)} tangents, one per output of forward, got "
                f"{len(tangents)}. Return None where there is no tangent."
            )
        return tuple(tangents[place] for place in call.places)


def apply(source: Source, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """source.apply(*args, **kwargs) with a LiteTensor among the arguments."""
    if _has_setup_context(source):
        bound = inspect.signature(source.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    if kwargs:
        raise TypeError(f"{source.__name__}.apply takes no keyword arguments, got {', '.join(kwargs)}")
    if source.__module__ == "torch.utils.checkpoint":
        raise NotImplementedError(
            "torch.utils.checkpoint with use_reentrant=True calls torch.autograd in backward, which LiteTensors are "
            "not for; choose use_reentrant=False, or neo.checkpoint around the model's call"
        )
    call = _Call(source, args)
    outputs = function(CustomFunction, source.__name__)(call, *call.take_tensors())
    for output, position in call.dirty.items():
        _write_back(source, args[position], outputs[call.places.index(output)])
    result = call.assembled(outputs)
    if call.dirty:
        whole = [result] if call.single else list(result)
        for output, position in call.dirty.items():
            whole[output] = args[position]
        return whole[0] if call.single else tuple(whole)
    return result


def _by_vmap_rule(source: Source, args: tuple[Any, ...], one: torch.Tensor) -> Any:
    """forward for a whole batch, by the Function's own vmap staticmethod, as torch.func.vmap calls it."""
    batch = Batch.of(one)
    sliced = [isinstance(arg, torch.Tensor) and is_batched(arg) for arg in args]
    given = [batch.physical(arg) if is_sliced else arg for arg, is_sliced in zip(args, sliced, strict=True)]
    info = types.SimpleNamespace(batch_size=batch.physical(one).shape[0], randomness="error")
    output, dims = source.vmap(info, tuple(0 if is_sliced else None for is_sliced in sliced), *given)
    if not isinstance(output, tuple):
        return output if dims is None else batch.slice(output.movedim(dims, 0))
    dims = dims if isinstance(dims, tuple | list) else (dims,) * len(output)
    return tuple(
        out if dim is None else batch.slice(out.movedim(dim, 0))
        for out, dim in zip(output, dims, strict=True)
    )


def _write_back(source: Source, target: Any, value: LiteTensor) -> None:
    """ctx.mark_dirty: the argument is what forward made of it."""
    if not isinstance(target, LiteTensor) or not may_write([target]):
        raise InPlaceError(
            f"{source.__name__}.apply: forward changes an argument in place (ctx.mark_dirty), and a LiteTensor never "
            f"changes. Give it x.clone() inside a converted module, or write forward without."
        )
    assign(target, shallow_copy(value))


def _refuse_first_order_only(source: Source) -> None:
    if getattr(source.backward, "__qualname__", "").endswith(".backward"):
        code = getattr(source.backward, "__code__", None)
        if code is not None and code.co_qualname.startswith("once_differentiable."):
            raise GradientError(
                f"{source.__name__}.backward is marked @once_differentiable, and a second derivative is asked for; "
                f"leave the mark away if backward is made of differentiable ops"
            )


def _sums_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Could torch sum a gradient of `shape` to `target`, from which it was broadcast?"""
    lead = len(shape) - len(target)
    return lead >= 0 and all(b in (a, 1) for a, b in zip(shape[lead:], target, strict=True))


def _spread(wanted: tuple[bool, ...], call: _Call) -> tuple[bool, ...]:
    """One bool per argument, of one per tensor."""
    needs = [False] * call.count
    for position, want in zip(call.positions, wanted, strict=True):
        if position is not None:
            needs[position] = want
    return tuple(needs)


def _has_setup_context(source: Source) -> bool:
    return source.setup_context is not torch.autograd.function._SingleLevelFunction.setup_context


def _mentions(source: Source, method: str) -> bool:
    """Do the functions of forward call this method of ctx?"""
    names: set[str] = set()
    for fn in (source.forward, source.setup_context):
        names.update(getattr(getattr(fn, "__code__", None), "co_names", ()))
    return method in names


def _among(value: Any, values: tuple[Any, ...]) -> bool:
    return any(value is other for other in values)


def install() -> None:
    """Give torch.autograd.Function.apply the code that asks Neo first, once."""
    if _original:
        return
    theirs = torch.autograd.Function.__dict__["apply"].__func__
    original = types.FunctionType(
        theirs.__code__, theirs.__globals__, "apply", theirs.__defaults__, theirs.__closure__
    )

    def with_cell(__class__: Any) -> Any:  # a name of theirs: the cell that their super() reads
        def apply(cls, *args, **kwargs):
            # The globals of this code are those of torch's module, once it is the code of torch's apply.
            return globals()["_neo_answered"](__class__, cls, args, kwargs)

        return apply

    code = with_cell(None).__code__
    if (
        theirs.__code__.co_freevars != code.co_freevars
    ):  # another torch: then `apply` taken before stays theirs
        answer = classmethod(lambda cls, *args, **kwargs: answered(cls, cls, args, kwargs))
        setattr(torch.autograd.Function, "apply", answer)  # noqa: B010
    else:
        theirs.__globals__["_neo_answered"] = answered
        theirs.__code__ = code
    _original.append(original)


_original: list[Any] = []  # torch's own apply


def answered(_: Any, cls: Source, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """cls.apply(*args, **kwargs), by Neo where a LiteTensor is among the arguments, else by torch."""
    if any(isinstance(arg, LiteTensor) for arg in args) or any(
        isinstance(value, LiteTensor) for value in kwargs.values()
    ):
        return apply(cls, args, kwargs)
    return _original[0](cls, *args, **kwargs)
