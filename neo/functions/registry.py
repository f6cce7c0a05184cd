"""Which torch callable is answered by which Neo function: the table behind torch functions, methods and operators."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from neo import _elsewhere
from neo.autograd import _aliases, _tensor
from neo.autograd._function import Function
from neo.autograd._numbers import Numbers
from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy
from neo.autograd.policy import function as make_function
from neo.autograd.tensor import LiteTensor
from neo.errors import InPlaceError, NeoError, NumberError
from neo.functions import autocasting, in_place
from neo.functions._handlers import handlers as _handlers
from neo.functions._names import DUNDERS, OPERATORS, WITH_NUMBERS, spell
from neo.functions._values import has_lite, lite, raw

__all__ = [
    "Function",
    "constant",
    "define_in_place_methods",
    "dispatch",
    "has_lite",
    "implements",
    "lite",
    "raw",
    "supported",
]

Implementation = TypeVar("Implementation", bound=Callable[..., Any])

_OWN_METHODS = frozenset(vars(LiteTensor)) | frozenset(
    vars(_tensor.TensorBase)
)  # the tensor answers these itself
_apart: set[Any] = set()  # torch callables whose arguments differ from those of their namesakes
_twins: dict[Any, list[Any]] = {}  # torch callable -> all callables registered together with it


def implements(
    *targets: Any,
    name: str | None = None,
    only: bool = False,
    numbers: tuple[str, ...] = (),
    scalars: tuple[str, ...] = (),
    tensors: tuple[str, ...] = (),
) -> Callable[[Implementation], Implementation]:
    """Answer torch callables on LiteTensors with a Policy class, or with a plain composition of Neo functions.

        @implements(torch.relu)
        class MyReLU(Policy): ...

    Registers the callable itself, the tensor method and operator of the same name, `torch.nn.functional` and
    `torch.special` functions of the same name, and `neo.functions.<name>`; given for a callable that Neo has an
    implementation of, it replaces that in all those places. Gives back what it decorates.

    Args:
        targets: torch callables (torch.sin, torch.Tensor.sum, torch.nn.functional.conv2d, ...), at least one.
        name: under which `neo.functions` shows it; by default the first target's own name.
        only: answer these targets and nothing else, where torch's namesakes take their arguments in another order
            (torch.batch_norm and F.batch_norm, torch.where and Tensor.where); `neo.functions` shows it only if named.
        numbers, scalars, tensors: for Neo's own compositions, whose numbers are told by default or usual name
            (_numbers.pyx): further numbers, those differentiated by when given a 0-dim LiteTensor, and parameters that
            are tensors nonetheless.
    Raises: TypeError when a target is not callable, or what is decorated is neither a Policy nor a function.
    """
    if not targets or not all(callable(target) for target in targets):
        raise TypeError(
            f"implements: expected torch callables, as in @implements(torch.relu); got {targets!r}"
        )

    def register(implementation: Implementation) -> Implementation:
        label = name or (targets[0].__name__ if not only else None)
        kinds = autocasting.kinds_of(target.__name__ for target in targets)
        handler: Callable[..., Any] = implementation
        if isinstance(implementation, type):
            if not issubclass(implementation, Policy):
                raise TypeError(
                    f"implements({targets[0].__name__}): expected a Policy class or a function, got {implementation!r}"
                )
            handler = function = make_function(implementation, label or targets[0].__name__)
            function.autocast = kinds
            if implementation.verified:
                handler.read_numbers()
        else:
            handler = _with_torch_names(
                implementation, label or targets[0].__name__, targets[0], kinds, (numbers, scalars, tensors)
            )
        _publish(label, targets, handler, only)
        return implementation

    return register


def constant(*targets: Any) -> None:
    """Register torch callables without a derivative (comparisons, argmax, ...): results are constants, not recorded."""
    for target in targets:
        _publish(target.__name__, (target,), _constant_handler(target))


def supported() -> frozenset[Any]:
    """The torch callables that have an implementation: functions, methods and operators."""
    return frozenset(_handlers)


def dispatch(func: Any, args: tuple, kwargs: dict[str, Any] | None) -> Any:
    """Answer torch's call of `func` on LiteTensors. Rule 10: NotImplementedError for what has no Policy."""
    handler = _handlers.get(func)
    if handler is None:
        name = getattr(func, "__name__", "")
        if in_place.is_in_place(name):
            return in_place.work_in_place(name, args, kwargs or {}, lambda: _unsupported(func))
        _refuse_number_beside_plain_tensors(func, args)
        raise _unsupported(func)
    if not kwargs:
        return handler(*args)
    kwargs.pop("_stacklevel", None)  # where torch's own warnings would point
    out, inplace = kwargs.pop("out", None), kwargs.pop("inplace", False)
    if out is not None:
        refusal = f"torch.{func.__name__}: out= would write in place; use the result instead"
        return in_place.write_out(out, handler(*args, **kwargs), lambda: InPlaceError(refusal))
    if inplace:
        refusal = f"torch.{func.__name__}: inplace=True would write in place; use the result of inplace=False"
        target = args[0] if args else kwargs["input"]
        return in_place.write_result(target, handler(*args, **kwargs), lambda: InPlaceError(refusal))
    return handler(*args, **kwargs)


def copies(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """For ops whose result has memory of its own in torch, where Neo, whose numbers never change, may share an input's.

    What in-place work in torch code does to the result is then not seen in the input.
    """

    @functools.wraps(implementation)
    def call(*args: Any, **kwargs: Any) -> Any:
        out = implementation(*args, **kwargs)
        if isinstance(out, list | tuple):
            return type(out)(_apart_from(value) for value in out) if type(out) in (list, tuple) else out
        return _apart_from(out)

    return call


def _apart_from(value: Any) -> Any:
    if not isinstance(value, LiteTensor):
        return value
    data = value.data
    if any(step == 0 and size > 1 for size, step in zip(data.shape, data.stride(), strict=True)):
        data = data.contiguous()
    alone: LiteTensor = _aliases.shallow_copy(value)
    _aliases.rebind(alone, alone, data)
    return alone


def _constant_handler(target: Any) -> Callable[..., Any]:
    def handler(*args: Any, **kwargs: Any) -> Any:
        if not has_lite(args) and not has_lite(kwargs.values()):
            return target(*args, **kwargs)
        return lite(target(*raw(args), **{key: raw(value) for key, value in kwargs.items()}))

    handler.__name__ = handler.__qualname__ = target.__name__
    handler.__doc__ = f"torch.{target.__name__}, which has no derivative: the result is a constant."
    return handler


def _with_torch_names(
    implementation: Callable[..., Any],
    name: str,
    target: Any,
    kinds: autocasting.Kinds | None,
    declared: tuple[tuple[str, ...], ...] = (),
) -> Callable[..., Any]:
    """A composition that takes keyword arguments under all the names that torch takes them under.

    `input` and `other` are its first two parameters, whatever their names; `axis` and `keepdims` mean dim and keepdim.
    Where it fails, `target` is asked what torch has to say of the same arguments.
    """
    signature = inspect.signature(implementation).parameters
    parameters = list(signature)
    # A composition of the user's may differentiate by any of its parameters.
    own = implementation.__module__.startswith("neo.")
    numbers = Numbers(name, signature.values(), *declared) if own else Numbers(name, ())
    first, keywords = numbers.first, numbers.keywords

    @functools.wraps(implementation)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            if kwargs.get("out", call) is None and "out" not in parameters:  # as np.sum(x) calls x.sum
                del kwargs["out"]
            for given, position in (("input", 0), ("self", 0), ("other", 1)):
                if given in kwargs and given not in parameters and position < len(parameters):
                    kwargs[parameters[position]] = kwargs.pop(given)
            for given, torch_name in (("axis", "dim"), ("keepdims", "keepdim")):
                if given in kwargs and given not in parameters and torch_name in parameters:
                    kwargs[torch_name] = kwargs.pop(given)
            if not keywords.isdisjoint(kwargs):
                numbers.by_name(kwargs)
        if len(args) > first:
            args = numbers.positional(args)
        try:
            if autocast_enabled():
                return autocasting.call(kinds, implementation, args, kwargs)
            return implementation(*args, **kwargs)
        except _ERRORS as error:
            _say_in_torchs_words(name, target, args, kwargs, error)
            raise

    return call


_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError)


def _say_in_torchs_words(name: str, target: Any, args: Any, kwargs: Any, error: Exception) -> None:
    """Raise what torch raises for the same arguments, the op's name in front; return where torch has no objection.

    What Neo says by intention stays: its own errors, and before torch's words what begins with the op's name.
    """
    if isinstance(error, NeoError | NotImplementedError):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target(*raw(args), **{key: raw(value) for key, value in kwargs.items()})
    except _ERRORS as theirs:
        if isinstance(theirs, NotImplementedError):
            return
        words = str(theirs)
        said = words if words.startswith(name) else f"{name}: {words}"
        if str(error).startswith(name) and str(error) not in said:
            said = f"{error} (torch: {words})"
        try:
            named = type(theirs)(said)
        except TypeError:  # a subclass that takes more than a message
            named = next(kind for kind in _ERRORS if isinstance(theirs, kind))(said)
        raise named from None


def _publish(
    label: str | None, targets: tuple[Any, ...], handler: Callable[..., Any], only: bool = False
) -> None:
    """Put `handler` everywhere that `targets` can be reached from."""
    everywhere: list[Any] = []
    for target in targets:
        if only:
            everywhere.append(target)
            continue
        everywhere.extend(_twins.get(target, [target]))
        own_name = target.__name__
        for home in (torch, torch.Tensor, F, torch.special):
            twin = getattr(home, own_name, None)
            if callable(twin) and twin not in _apart:
                everywhere.append(twin)
        for dunder in DUNDERS.get(own_name, ()):
            everywhere.append(getattr(torch.Tensor, dunder))
    if only:
        for target in targets:
            _apart.add(target)
            for group in _twins.values():
                if target in group:
                    group.remove(target)
    everywhere = list(dict.fromkeys(everywhere))
    for target in everywhere:
        _handlers[target] = handler
        _twins[target] = everywhere
        method = target.__name__
        if (
            getattr(torch.Tensor, method, None) is target
            and not method.startswith("__")
            and method not in _OWN_METHODS
        ):
            setattr(LiteTensor, method, _as_method(method, handler))
    if label is None:
        return
    for operator in set() if only else {label, *(target.__name__ for target in targets)} & OPERATORS:
        _tensor.register_operator(operator, handler)
        if operator in WITH_NUMBERS:
            for variant in (f"{operator}_number", f"number_{operator}"):
                _tensor.register_operator(variant, _number_variant(variant, handler))
    library = sys.modules["neo.functions"]
    setattr(library, label, handler)
    for target in () if only else targets:  # torch's other names of the same function
        if not target.__name__.startswith("_") and not hasattr(library, target.__name__):
            setattr(library, target.__name__, handler)
    short = label.removeprefix("linalg_").removeprefix("special_")
    if not hasattr(
        torch, short
    ):  # torch.linalg.svdvals is svdvals too, torch.linalg.svd is not: there is torch.svd
        setattr(library, short, handler)


def _number_variant(variant: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    """The operator between a tensor and a number; number rules take the tensor first."""
    if variant.startswith("number_"):
        return lambda tensor, number: handler(number, tensor)
    return handler


def _as_method(method: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: LiteTensor, *args: Any, **kwargs: Any) -> Any:
        return handler(self, *args, **kwargs)

    call.__name__ = method
    call.__qualname__ = f"LiteTensor.{method}"
    call.__doc__ = handler.__doc__
    return call


def _refuse_number_beside_plain_tensors(func: Any, args: tuple[Any, ...]) -> None:
    """torch.nn.functional looks for LiteTensors among tensors alone, and hands on those in a number's place."""
    name = getattr(func, "__name__", "")
    outer = getattr(F, name, None)
    if outer is not func and outer in _handlers and args and isinstance(args[0], torch.Tensor):
        raise NumberError(
            f"{name}: got a LiteTensor where it takes a number, beside plain torch tensors. Make the input a "
            "LiteTensor too, or pass the number's .item() if it is a constant."
        )


def _unsupported(func: Any) -> Exception:
    spelled = spell(func)
    if spelled in _elsewhere.FUNCTIONS:
        return NotImplementedError(f"{spelled}: {_elsewhere.FUNCTIONS[spelled]}")
    name = getattr(func, "__name__", str(func))
    if name in _elsewhere.IN_PLACE or (name.endswith("_") and not name.endswith("__")):
        return InPlaceError(
            f"{spelled} works in place, and a LiteTensor never changes{_functional_form(name)}"
        )
    return NotImplementedError(
        f"{spelled} has no Policy; give it one with @neo.functions.implements({spelled})"
    )


def _functional_form(name: str) -> str:
    """What to write in place of an in-place op, as the end of a sentence; it exists, and takes the same arguments."""
    if name in _elsewhere.IN_PLACE:
        return f". Use {_elsewhere.IN_PLACE[name]}."
    functional = name[:-1]
    for home, prefix in ((torch, "torch"), (F, "torch.nn.functional")):
        if getattr(home, functional, None) in _handlers:
            return f". Use its functional form, {prefix}.{functional}: x = {prefix}.{functional}(x, ...)."
    if callable(getattr(LiteTensor, functional, None)):
        return f". Use its functional form, x = x.{functional}(...)."
    return ", and Neo has no functional form of it. Compute on x.data where it is a constant."


def define_in_place_methods() -> None:
    """x.add_(1), x[i] = v and their like, for LiteTensor: what torch's do in code written for torch; elsewhere they say
    what to use instead."""
    for method in dir(torch.Tensor):
        if method.endswith("_") and not method.endswith("__") and method not in _elsewhere.ATTRIBUTES:
            if hasattr(LiteTensor, method):
                continue

            def write(self: LiteTensor, *args: Any, _method: str = method, **kwargs: Any) -> Any:
                func = getattr(torch.Tensor, _method)
                return in_place.work_in_place(_method, (self, *args), kwargs, lambda: _unsupported(func))

            write.__name__ = method
            setattr(LiteTensor, method, write)
    setattr(LiteTensor, "__setitem__", in_place.set_item)  # noqa: B010  (mypy: a class has no such method of its own)
