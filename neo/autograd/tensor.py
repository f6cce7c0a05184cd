"""LiteTensor: the data, and nothing about graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from neo import pytree
from neo._elsewhere import ASSIGNED, ATTRIBUTES
from neo.autograd import _aliases, _tensor
from neo.autograd._identity import same_to_rule, tracked
from neo.autograd.torch_code import asked_by_name, asked_by_torch
from neo.errors import AmbiguousTruthError, InPlaceError, SessionError
from neo.guards import settle

__all__ = ["LiteTensor"]


class LiteTensor(_tensor.TensorBase):
    """A detached torch.Tensor, and nothing about graphs.

    LiteTensor(data, dtype=None, device=None): data is a number, nested list, numpy array (copied), torch.Tensor
    (detached, memory shared) or LiteTensor. Numbers and lists of floats become torch's default dtype. A new tensor is
    a constant to every open session, also when it is made of another; not so inside a Policy's backward or jvp, where
    LiteTensor(x) is x to the sessions around it. Raises TypeError for complex numbers.

    It is no torch.Tensor: isinstance(x, torch.Tensor) is False, isinstance(x, neo.LiteTensor) True.

    Operators, torch functions and torch's methods work on it and give LiteTensors; which tensor came from which is
    known to the tape of an open session alone. LiteTensors are hashed by identity, so that they can be dict keys.
    """

    __slots__ = ()
    __array_ufunc__ = None  # numpy_array * tensor comes to our operators, not to numpy's

    def __init__(self, data: Any, dtype: torch.dtype | None = None, device: str | torch.device | None = None):
        source = data if isinstance(data, LiteTensor) else None
        if source is not None:
            data = source.data
        if isinstance(data, torch.Tensor):
            tensor = data.detach()
            if dtype is not None or device is not None:
                tensor = tensor.to(device=device, dtype=dtype)
        else:
            if isinstance(data, list | tuple):
                data = _plain(data)
            tensor = torch.tensor(data, dtype=dtype, device=device)
        if tensor.is_complex():
            raise TypeError(
                f"LiteTensor: complex numbers are not supported, got {tensor.dtype}. "
                f"Keep the real and the imaginary part as two tensors."
            )
        self._bind(tensor)
        if source is not None:
            same_to_rule(self, source)

    @staticmethod
    def _wrap(tensor: torch.Tensor) -> LiteTensor:
        """A LiteTensor on a fresh, detached tensor that nothing else holds."""
        return _tensor.wrap_tensor(tensor)

    def __getattr__(self, name: str) -> Any:
        """torch's methods that Neo has no method for: to call one is to call the torch function (rule 10)."""
        if name in _DESCRIPTIONS:
            return getattr(self.data, name)
        method = getattr(torch.Tensor, name, None)
        if name in ATTRIBUTES or name.startswith("_") or not callable(method):
            advice = f": {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
            raise AttributeError(f"LiteTensor has no attribute {name!r}{advice}")
        return lambda *args, **kwargs: self.__torch_function__(method, (LiteTensor,), (self, *args), kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ASSIGNED:
            raise AttributeError(f"LiteTensor.{name} cannot be set: {ASSIGNED[name]}")
        object.__setattr__(self, name, value)

    # what a tensor is; shape, dtype, device and ndim: _tensor.pyx ----------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Always False: whether a tensor is differentiated is a session's business."""
        return False

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda

    @property
    def layout(self) -> torch.layout:
        return self.data.layout

    @property
    def itemsize(self) -> int:
        return self.data.itemsize

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def dim(self) -> int:
        return self.data.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.data.size() if dim is None else self.data.size(dim)

    def numel(self) -> int:
        return self.data.numel()

    def element_size(self) -> int:
        return self.data.element_size()

    def stride(self, dim: int | None = None) -> Any:
        return self.data.stride() if dim is None else self.data.stride(dim)

    def is_contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> bool:
        return self.data.is_contiguous(memory_format=memory_format)

    def is_floating_point(self) -> bool:
        return self.data.is_floating_point()

    def is_complex(self) -> bool:
        return self.data.is_complex()

    def __len__(self) -> int:
        return len(self.data)

    # its numbers, as Python or numpy ones: reading them is no op, and no gradient flows through it ---------------

    def item(self) -> float | int | bool:
        settle()
        return self.data.item()

    def tolist(self) -> Any:
        settle()
        return self.data.tolist()

    def numpy(self) -> np.ndarray:
        self._expect_constant("numpy()")
        settle()
        return self.data.numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._expect_constant("a numpy function")
        settle()
        array = self.data.cpu().numpy()
        if dtype is not None and dtype != array.dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __float__(self) -> float:
        if not asked_by_name("float", "math"):  # but torch.tensor([x], dtype=...), say
            self._expect_constant("a function that takes a number", numbers_in_torch_code=True)
        settle()
        return float(self.data)

    def __int__(self) -> int:
        if not asked_by_name("int", "math"):
            self._expect_constant("a function that takes a number", numbers_in_torch_code=True)
        settle()
        return int(self.data)

    def __bool__(self) -> bool:
        settle()
        if self.data.numel() != 1:
            raise AmbiguousTruthError(
                f"LiteTensor: the truth of {self.data.numel()} numbers, shape {tuple(self.shape)}, is ambiguous; "
                f"use torch.any(x) or torch.all(x)"
            )
        return bool(self.data)

    def __index__(self) -> int:
        return self.data.__index__()

    def _expect_constant(self, reader: str, numbers_in_torch_code: bool = False) -> None:
        """Rule 13: what a session tracks leaves it only by its user's word; torch code may read numbers."""
        if tracked(self) and not (numbers_in_torch_code and asked_by_torch()):
            raise SessionError(
                f"LiteTensor: {reader} reads a tensor of shape {tuple(self.shape)} that an open session tracks, and "
                f"its gradient would be lost. Use the torch function of that name (torch.dot, torch.stack, ...), or "
                f"say that a constant is meant: x.detach(), x.item(), x.tolist()."
            )

    def __complex__(self) -> complex:
        return complex(self.data)

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).data.any())

    def __iter__(self) -> Iterator[LiteTensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-dim LiteTensor")
        return iter([self[i] for i in range(len(self))])

    def __reversed__(self) -> LiteTensor:
        return self.flip(0) if self.ndim else self

    def __lshift__(self, other: Any) -> LiteTensor:
        return self.bitwise_left_shift(other)

    def __rshift__(self, other: Any) -> LiteTensor:
        return self.bitwise_right_shift(other)

    def __rlshift__(self, other: Any) -> LiteTensor:
        return _shift_left(other, self)

    def __rrshift__(self, other: Any) -> LiteTensor:
        return _shift_right(other, self)

    def __str__(self) -> str:
        settle()
        data = self.data.float() if self.dtype is torch.bfloat16 else self.data  # numpy has no bfloat16
        return str(data.cpu().numpy())

    def __repr__(self) -> str:
        body = repr(self.data).removeprefix("tensor(").removesuffix(")")
        return f"LiteTensor({body})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.ndim == 0 else format(str(self), spec)

    def __copy__(self) -> LiteTensor:
        return _aliases.shallow_copy(self)  # to an open session the same tensor, as assignment would be

    def __deepcopy__(self, memo: dict) -> LiteTensor:
        if tracked(self):
            tensor: Any = self
            clone: Any = torch.clone(tensor)
            return clone
        return LiteTensor(self.data.clone())

    # in-place work; x[i] = v and x.add_(y) come from the op library, neo/functions/in_place.py ------------------------

    def __delitem__(self, index: Any) -> None:
        raise InPlaceError("LiteTensor: entries cannot be deleted; index what you want to keep")


_shift_left: Any = torch.bitwise_left_shift
_shift_right: Any = torch.bitwise_right_shift
_DESCRIPTIONS = (
    frozenset(  # what code written for torch.Tensors, torch.nn's own for one, asks about a tensor's storage
        [
            *(
                "is_cpu",
                "is_ipu",
                "is_maia",
                "is_meta",
                "is_mkldnn",
                "is_mps",
                "is_mtia",
                "is_nested",
                "is_quantized",
            ),
            *("is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu", "layout", "name", "_version"),
        ]
    )
)


def _plain(data: Any) -> Any:
    """Nested lists with the LiteTensors and torch tensors in them as plain numbers."""
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    return data.tolist() if isinstance(data, LiteTensor | torch.Tensor) else data


_tensor.register_class(LiteTensor)
pytree.register_tensor(LiteTensor)
