"""Where torch takes tensors without asking them: its functional transforms, given LiteTensors, say what to use here.

Everywhere else torch hands a call on a LiteTensor to `LiteTensor.__torch_function__`. The functions below look with
isinstance alone, so that neither Neo nor the tensor is asked, and torch's words ("Thing passed to transform API must be
Tensor") do not help. Each is wrapped, at the one inner function that all of its spellings go through: given a
LiteTensor it raises, or, for functional_call, answers; given anything else it is torch's own. A torch without one of
these functions keeps its own words.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from neo.autograd.tensor import LiteTensor
from neo.nn.functional_call import functional_call

__all__ = ["install"]

_TRANSFORMS = (
    "torch.func differentiates and maps torch.Tensors, not LiteTensors. Use neo.grad, neo.value_and_grad, neo.vjp, "
    "neo.jvp, neo.linearize, neo.jacobian, neo.hessian and neo.vmap, which take the same functions and arguments."
)
_FUNCTIONAL = (
    "torch.autograd.functional differentiates torch.Tensors, not LiteTensors. Use neo.vjp(f, *args), "
    "neo.jvp(f, args, tangents), neo.hvp(f, args, vectors), neo.jacobian(f)(*args) and neo.hessian(f)(*args)."
)
_CHECK = "torch.autograd.gradcheck is for torch.Tensors. Use neo.gradcheck(f, args, order=2)."

GUARDED = [
    ("torch._functorch.eager_transforms", "_create_differentiable", _TRANSFORMS),  # grad, vjp, jacrev
    ("torch._functorch.eager_transforms", "_jvp_with_argnums", _TRANSFORMS),
    ("torch._functorch.eager_transforms", "_construct_standard_basis_for", _TRANSFORMS),  # jacfwd, hessian
    ("torch._functorch.vmap", "_process_batched_inputs", _TRANSFORMS),
    ("torch._functorch.apis", "_process_batched_inputs", _TRANSFORMS),  # its own name for it, with chunk_size
    ("torch.autograd.functional", "_as_tuple", _FUNCTIONAL),
    ("torch.autograd.gradcheck", "_check_inputs", _CHECK),
]


def install() -> None:
    """Wrap them, once."""
    for module, name, words in GUARDED:
        _wrap(module, name, functools.partial(_refuse, words))
    _wrap("torch.nn.utils.stateless", "_functional_call", _functional_call)


def _wrap(module_name: str, name: str, answer: Callable[..., Any]) -> None:
    module = importlib.import_module(module_name)
    original = getattr(module, name, None)
    if original is None or hasattr(original, "_neo_guard"):
        return

    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if _has_lite(args) or _has_lite(kwargs):
            return answer(*args, **kwargs)
        return original(*args, **kwargs)

    vars(guarded)["_neo_guard"] = True
    setattr(module, name, guarded)


def _refuse(words: str, *args: Any, **kwargs: Any) -> None:
    raise TypeError(words)


def _functional_call(
    module: Any,
    parameters: Any,
    args: Any = None,
    kwargs: Any = None,
    *,
    strict: bool = False,
    **options: Any,
) -> Any:
    return functional_call(module, parameters, args, kwargs)


def _has_lite(value: Any) -> bool:
    if isinstance(value, LiteTensor):
        return True
    if isinstance(value, dict):
        return any(_has_lite(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_lite(item) for item in value)
