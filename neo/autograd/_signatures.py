"""Keyword arguments of a Function: bound to the signature of its Policy's forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from neo.errors import InPlaceError

__all__ = ["bind", "signature_of", "with_keywords"]

_NUMPY_NAMES = (("axis", "dim"), ("keepdims", "keepdim"))  # and torch's, which takes both


def signature_of(forward: Callable[..., Any]) -> inspect.Signature:
    """That of forward, without self."""
    signature = inspect.signature(forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def bind(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional arguments, those that forward takes by keyword alone), the defaults between given ones filled in.

    Raises TypeError, with the op's name and signature, for what forward does not take; InPlaceError for out=.
    """
    if kwargs.get("out") is not None:
        raise InPlaceError(f"{name}: out= is not supported, for it writes in place; use the result")
    kwargs.pop("out", None)
    parameters = signature.parameters
    for given, torch_name in _NUMPY_NAMES:
        if given in kwargs and given not in parameters and torch_name in parameters:
            kwargs[torch_name] = kwargs.pop(given)
    if "input" in kwargs and "input" not in parameters:
        args = (kwargs.pop("input"), *args)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}{signature}: {error}") from None
    bound.apply_defaults()
    return bound.args, bound.kwargs


def with_keywords(policy: Any, names: tuple[str, ...]) -> Any:
    """A subclass of a Policy whose forward takes the arguments `names`, keyword-only to it, as its last ones."""
    count = len(names)

    def forward(self: Any, *args: Any) -> Any:
        return policy.forward(self, *args[:-count], **dict(zip(names, args[-count:], strict=True)))

    members = {
        "__module__": policy.__module__,
        "__qualname__": policy.__qualname__,
        "__doc__": policy.__doc__,
    }
    return type(policy.__name__, (policy,), {"forward": forward, **members})
