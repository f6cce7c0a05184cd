"""How torch and Python name what Neo answers: operators, their methods, and a callable as a user writes it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["DUNDERS", "OPERATORS", "WITH_NUMBERS", "spell"]

# Python's operators, by the name of the torch function that spells them; _tensor.pyx looks them up by this name.
OPERATORS = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "pow",
        "floor_divide",
        "remainder",
        "matmul",
        "neg",
        "abs",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "bitwise_not",
        "getitem",
    ]
)
WITH_NUMBERS = frozenset(["add", "sub", "mul", "div", "pow"])
# What torch calls the operator methods when a plain torch.Tensor stands on the left.
DUNDERS = {
    "add": ("__add__", "__radd__"),
    "sub": ("__sub__",),
    "rsub": ("__rsub__",),
    "mul": ("__mul__", "__rmul__"),
    "div": ("__truediv__", "__div__"),
    "pow": ("__pow__",),
    "floor_divide": ("__floordiv__",),
    "remainder": ("__mod__",),
    "matmul": ("__matmul__",),
    "eq": ("__eq__",),
    "ne": ("__ne__",),
    "lt": ("__lt__",),
    "le": ("__le__",),
    "gt": ("__gt__",),
    "ge": ("__ge__",),
    "neg": ("__neg__",),
    "abs": ("__abs__",),
    "getitem": ("__getitem__",),
    "bitwise_and": ("__and__", "__rand__"),
    "bitwise_or": ("__or__", "__ror__"),
    "bitwise_xor": ("__xor__", "__rxor__"),
    "bitwise_not": ("__invert__",),
}


def spell(func: Any) -> str:
    """How a user writes a torch callable: torch.sin, torch.Tensor.sum, torch.nn.functional.relu."""
    name = getattr(func, "__name__", None) or str(func)
    for home, prefix in ((torch, "torch"), (F, "torch.nn.functional"), (torch.Tensor, "torch.Tensor")):
        if getattr(home, name, None) is func:
            return f"{prefix}.{name}"
    for home in (torch.special, torch.linalg, torch.fft):
        area = home.__name__.rpartition(".")[2]
        short = name.removeprefix(f"{area}_")  # torch.linalg.svd calls itself linalg_svd
        if getattr(home, short, None) is func:
            return f"torch.{area}.{short}"
    module = getattr(func, "__module__", None)
    if getattr(func, "__objclass__", None) is not None:
        return f"torch.Tensor.{name}"
    return f"{module}.{name}" if module and module.startswith("torch") else f"torch.{name}"
