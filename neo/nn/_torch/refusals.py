"""Modules that cannot be made a pure function of their parameters, each refused by name."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from neo.errors import ConversionError

__all__ = ["refuse_unconvertible"]


def refuse_unconvertible(module: torch.nn.Module) -> None:
    """Raises ConversionError naming the submodule or parameter, why it cannot be converted, and what to do."""
    for reason in _reasons(module):
        raise ConversionError(f"from_torch({type(module).__name__}): {reason}")


def _reasons(module: torch.nn.Module) -> Iterator[str]:
    for name, part in module.named_modules():
        where = f"submodule {name!r} ({type(part).__name__})" if name else "it"
        if isinstance(part, torch.jit.ScriptModule):
            yield f"{where} is compiled by torch.jit, whose inside Neo cannot run; give the Python module"
        if type(part).__name__ == "OptimizedModule":
            yield f"{where} is compiled by torch.compile, whose inside Neo cannot run; give module._orig_mod"
        if ".quantized" in type(part).__module__:
            yield f"{where} is quantised, and integers have no derivative; give the floating-point module"
        if part._backward_hooks or part._backward_pre_hooks:
            yield f"{where} has backward hooks, which torch.autograd calls and Neo would not; remove them"
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedTensorMixin):
            yield f"parameter {name!r} is lazy and has no shape yet; call the module once, then convert it"
        elif parameter.is_complex():
            yield f"parameter {name!r} is {parameter.dtype}; keep its real and imaginary part as two parameters"
        elif parameter.is_quantized or parameter.layout is not torch.strided:
            yield f"parameter {name!r} is quantised or sparse; give a dense floating-point one"
        elif parameter.is_meta:
            yield f"parameter {name!r} is on the meta device and holds no numbers; use module.to_empty(device=...)"
        elif parameter._backward_hooks:
            yield f"parameter {name!r} has a hook, which torch.autograd calls and Neo would not; remove it"
        elif parameter.requires_grad and not parameter.is_floating_point():
            yield f"parameter {name!r} is {parameter.dtype}, which has no derivative"
    for name, buffer in module.named_buffers():
        if isinstance(buffer, UninitializedTensorMixin):
            yield f"buffer {name!r} is lazy and has no shape yet; call the module once, then convert it"
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield (
            "every parameter has requires_grad=False, which from_torch takes for a constant, so that none is left; "
            "call module.requires_grad_(True)"
        )
