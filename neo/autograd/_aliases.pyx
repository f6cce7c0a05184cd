"""LiteTensors on the same memory: views, and what is detached.

A tensor's numbers never change, but which numbers a LiteTensor stands for can: code written for torch that works in place
(neo/functions/in_place.py) has the LiteTensors on the same memory, its aliases, take new ones.
"""
from cpython.weakref cimport PyWeakref_NewRef

from neo.autograd._tensor cimport TensorBase, tell_another, wrap, wrap_as


cdef int add_alias(TensorBase view, TensorBase source) except -1:
    """Note that two LiteTensors lie on the same memory."""
    cdef list aliases = source.aliases
    if aliases is None:
        aliases = source.aliases = [PyWeakref_NewRef(source, None)]
    elif len(aliases) & (len(aliases) - 1) == 0 and len(aliases) >= 8:     # now and then: forget those that are gone
        aliases[:] = [member for member in aliases if member() is not None]
    aliases.append(PyWeakref_NewRef(view, None))
    view.aliases = aliases
    view.branch = source.branch
    return 0


def detached(TensorBase tensor not None):
    """torch's x.detach(): a constant on the same memory, so that in-place work on one is seen in the other."""
    cdef TensorBase out = wrap(tensor.data.detach())
    add_alias(out, tensor)
    out.branch = out.serial
    return out


def shallow_copy(TensorBase tensor not None):
    """The same tensor to every tape, in a LiteTensor of its own, which in-place work on the other does not change."""
    return wrap_as(tensor.data.detach(), tensor.serial)


def make_view(TensorBase view not None, TensorBase source not None, data):
    """Have `view`, a new tensor, lie on the memory of `source`, as `data` does, which holds the same numbers."""
    view.data = data.detach()
    add_alias(view, source)


def aliases_of(TensorBase tensor not None):
    """The other LiteTensors that lie on the same memory and are still held by somebody."""
    cdef list out = []
    if tensor.aliases is not None:
        for reference in tensor.aliases:
            member = reference()
            if member is not None and member is not tensor:
                out.append(member)
    return out


def same_branch(TensorBase one not None, TensorBase other not None):
    """Is neither of two tensors on the same memory detached from the other?"""
    return one.branch == other.branch


def rebind(TensorBase tensor not None, TensorBase value not None, data=None):
    """Have `tensor` stand for the tensor that `value` stands for, on `data` where that is given, from now on."""
    tensor.data = value.data.detach() if data is None else data
    tensor.serial = value.serial
    tell_another(tensor)


def forget_aliases(TensorBase tensor not None):
    """For a tensor that has been given memory of its own."""
    tensor.aliases = None
    tensor.branch = 0
