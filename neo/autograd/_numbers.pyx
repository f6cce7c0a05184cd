"""Tensors where an op takes a number (rule 14): read as the number they hold, or refused where a session tracks them.

torch takes a 0-dim tensor for a number if it needs no gradient, and refuses it otherwise. So does Neo, for every op of
its library at once: which parameters are numbers is read off the signatures.
"""
import inspect
import numbers as abstract

import numpy as np
import torch

from neo.autograd._stack cimport Stack, open_stack
from neo.autograd._tensor cimport TensorBase, is_lite_tensor
from neo.errors import NumberError

cdef object Tensor = torch.Tensor
cdef object NumpyNumber = np.generic

# Parameters that are numbers in every torch signature in which they have no default, or None, to tell it by.
NAMES = frozenset("""
    axes bins c chunks correction count counts decimals delta dim dim0 dim1 dim2 dimension dims divisor_override
    downscale_factor dx eps exponents group groups kernel_size length lower max_norm maxnorm N negative_slope norm_type
    num_groups ord output_ratio output_size p pad padding padding_value posinf neginf repetitions scale scale_factor
    scale_factors scales_h scales_w shape shifts size sizes space split_size start step steps stride storage_offset threshold
    total_length unbiased upper upscale_factor destination normalized_shape
    """.split())
ANYTHING = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
OPTIONS = (bool, str, abstract.Number, torch.dtype, torch.memory_format)


def takes_number(parameter, declared):
    """Whether a parameter takes a number (or a name, a dtype): by declaration, default or name."""
    default = parameter.default
    if parameter.name in declared or isinstance(default, OPTIONS):
        return True
    if isinstance(default, (tuple, list)) and all([isinstance(item, OPTIONS) for item in default]):
        return True
    return (default is None or default is parameter.empty) and parameter.name in NAMES


cdef class Numbers:
    """The parameters of an op that take numbers.

    Args:
        op: its name, for messages.
        parameters: those of its signature, in order.
        declared: names of further parameters that are numbers, where neither a default nor NAMES says so.
        scalars: numbers that the op differentiates by when a 0-dim LiteTensor is given.
        tensors: parameters that are tensors in spite of their default or name.
    """

    def __init__(self, str op, parameters, declared=(), scalars=(), tensors=()):
        cdef list names = []
        cdef list keywords = []
        self.op = op
        for parameter in parameters:
            is_number = parameter.name not in tensors and takes_number(parameter, (*declared, *scalars))
            if is_number:
                keywords.append(parameter.name)
            if parameter.kind in ANYTHING:
                names.append(parameter.name if is_number else None)
            elif parameter.kind is parameter.VAR_POSITIONAL and is_number:
                self.rest = parameter.name
        self.names = tuple(names)
        self.keywords = frozenset(keywords)
        self.scalars = frozenset(scalars)
        self.first = next((i for i, name in enumerate(names) if name is not None),
                          1 << 30 if self.rest is None else len(names))

    def positional(self, tuple args):
        """`args` with numbers in place of the tensors that stand where numbers are taken."""
        return self.checked(args)

    def by_name(self, dict kwargs):
        """The same of keyword arguments, in place."""
        for name, value in kwargs.items():
            if name in self.keywords:
                number = self.number(value, name)
                if number is not value:
                    kwargs[name] = number

    cdef tuple checked(self, tuple args):
        cdef Py_ssize_t i, named = len(self.names)
        cdef object value, number, name
        cdef list out = None
        for i in range(self.first, len(args)):
            name = self.names[i] if i < named else self.rest
            if name is None:
                continue
            value = args[i]
            if type(value) is int or value is None or type(value) is float or type(value) is bool:
                continue
            number = self.number(value, name)
            if number is not value:
                if out is None:
                    out = list(args)
                out[i] = number
        return args if out is None else tuple(out)

    cdef object number(self, object value, str name):
        """The number that `value` holds; what is no tensor as it is. Tuples and lists are looked through."""
        cdef list items
        if is_lite_tensor(value):
            raw = (<TensorBase> value).data
            if raw.ndim == 0 and raw.is_floating_point():
                if name in self.scalars:
                    return value
                if tracked(<TensorBase> value):
                    raise NumberError(
                        f"{self.op}: {name} must be a number, got a LiteTensor, shape {tuple(raw.shape)}, that an open "
                        f"session tracks; {self.op} has no gradient for {name}. Pass {name}.item() if it is a "
                        f"constant; else write the op out in terms of tensors.")
            return self.read(raw, name)
        if isinstance(value, Tensor):
            return self.read(value, name)
        if isinstance(value, NumpyNumber):
            return value.item()
        if isinstance(value, (tuple, list)):
            if all_plain(value):
                return value
            items = [self.number(item, name) for item in value]
            for item, number in zip(value, items):
                if item is not number:
                    return items if isinstance(value, list) else tuple(items)
        return value

    def read(self, raw, name):
        if raw.ndim:
            raise NumberError(f"{self.op}: {name} must be a number or a 0-dim tensor, got a tensor of shape "
                              f"{tuple(raw.shape)}")
        try:
            return raw.item()
        except RuntimeError as error:
            raise NumberError(f"{self.op}: {name} must be a number, got a tensor whose number cannot be read here: "
                              f"{error}") from error


cdef bint all_plain(object values) except -1:
    for value in values:
        if type(value) is not int and type(value) is not float:
            return False
    return True


cdef bint tracked(TensorBase tensor) except -1:
    """Does an open tape of this thread, one suspended by a checkpoint included, track this tensor?"""
    cdef Stack stack = open_stack()
    return stack is not None and stack.tracks_serial(tensor.serial, stack.first())


def is_tracked(value):
    """Is this a LiteTensor that an open session of this thread tracks?"""
    return is_lite_tensor(value) and tracked(<TensorBase> value)
