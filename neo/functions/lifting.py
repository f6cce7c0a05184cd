"""Code written for torch, run so that every tensor it makes can hold what a session differentiates.

`out = torch.zeros(5); out[0] = y` writes a LiteTensor into a torch.Tensor, which is a constant to Neo. Nobody can know
beforehand which of a module's torch.Tensors will be written to: the call is run again with each as a LiteTensor.
"""

from __future__ import annotations

from typing import Any

import optree
import torch
from torch.overrides import TorchFunctionMode

from neo.autograd._identity import tracked
from neo.autograd._tensor import answering, lifting
from neo.autograd.tensor import LiteTensor
from neo.autograd.torch_code import asked_by_neo
from neo.functions.registry import raw

__all__ = ["Lifting", "lifted"]


def lifted(value: Any) -> Any:
    """torch.Tensors as LiteTensors on the same memory, in lists, tuples and dicts too; complex and sparse ones stay."""
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return LiteTensor(value) if value.layout is torch.strided and not value.is_complex() else value
    if isinstance(value, list | tuple | dict):
        tree: Any = value
        return optree.tree_map(lambda leaf: lifted(leaf) if isinstance(leaf, torch.Tensor) else leaf, tree)
    return value


class Lifting(TorchFunctionMode):
    """Inside, whatever torch function gives a torch.Tensor gives a LiteTensor.

    Functions that Neo has no rule for, as before, take LiteTensors that no session tracks for what they are: constants.
    """

    def __enter__(self) -> Lifting:
        lifting(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        lifting(False)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if answering() or asked_by_neo():
            return func(*args, **kwargs)
        try:
            return lifted(func(*args, **kwargs))
        except NotImplementedError:
            everything: Any = (args, kwargs)
            leaves = optree.tree_leaves(everything)
            if any(isinstance(leaf, LiteTensor) and tracked(leaf) for leaf in leaves):
                raise
            constants: Any = optree.tree_map(raw, everything)
            return lifted(func(*constants[0], **constants[1]))
