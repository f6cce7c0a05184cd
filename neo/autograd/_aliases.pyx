"""LiteTensors on the same memory: views, and what is detached.

A tensor's numbers never change, but which numbers a LiteTensor stands for can: code written for torch that works in place
(neo/functions/in_place.py) has the LiteTensors on the same memory, its family, stand for new ones.
"""
from cpython.weakref cimport PyWeakref_NewRef

from neo.autograd._handle cimport Handle, twin, wrap


cdef int join(Handle view, Handle source) except -1:
    """Note that two LiteTensors lie on the same memory."""
    cdef list family = source.family
    if family is None:
        family = source.family = [PyWeakref_NewRef(source, None)]
    elif len(family) & (len(family) - 1) == 0 and len(family) >= 8:     # now and then: forget those that are gone
        family[:] = [member for member in family if member() is not None]
    family.append(PyWeakref_NewRef(view, None))
    view.family = family
    view.branch = source.branch
    return 0


def detached(Handle handle not None):
    """torch's x.detach(): a constant on the same memory, so that in-place work on one is seen in the other."""
    cdef Handle out = wrap(handle.data.detach())
    join(out, handle)
    out.branch = out.serial
    return out


def value_twin(Handle handle not None):
    """The same tensor to every tape, in a LiteTensor of its own, which in-place work on the other does not change."""
    return twin(handle.data.detach(), handle.serial)


def lay_on(Handle view not None, Handle source not None, data):
    """Have `view`, a new tensor, lie on the memory of `source`, as `data` does, which holds the same numbers."""
    view.data = data.detach()
    join(view, source)


def relatives(Handle handle not None):
    """The other LiteTensors that lie on the same memory and are still held by somebody."""
    cdef list out = []
    if handle.family is not None:
        for reference in handle.family:
            member = reference()
            if member is not None and member is not handle:
                out.append(member)
    return out


def same_branch(Handle one not None, Handle other not None):
    """Is neither of two tensors on the same memory detached from the other?"""
    return one.branch == other.branch


def become(Handle handle not None, Handle value not None, data=None):
    """Have `handle` stand for the tensor that `value` stands for, on `data` where that is given, from now on."""
    handle.data = value.data.detach() if data is None else data
    handle.serial = value.serial


def leave_family(Handle handle not None):
    """For a tensor that has been given memory of its own."""
    handle.family = None
    handle.branch = 0
