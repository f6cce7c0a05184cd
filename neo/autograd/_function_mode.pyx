"""torch's function mode of a `with draws(...)` block: it sees every torch function that is called in the block, on
whatever tensors, and hands those that draw random numbers to what neo.functions.randomness has registered for them.

A mode costs torch about a microsecond a call, on LiteTensors and torch tensors alike. So it is off while a Policy of
Neo's own runs, whose draws name their generator, and a call on LiteTensors goes from here straight to its handler. Nobody
pays anything where no block is open.
"""
from types import FunctionType

import torch

from cpython.pycapsule cimport PyCapsule_GetPointer

from neo.autograd._tensor cimport TensorBase
from neo.kernels import direct


cdef extern from "look.h":
    const char *NEO_LOOK
    ctypedef struct NeoLook:
        int (*torch_functions)(int disabled)


cdef enum:                          # of at::impl::TorchFunctionDisabledState
    ENABLED = 0
    ALL_DISABLED = 2

cdef NeoLook *look = NULL           # torch's C++, where that is at hand
if direct.look is not None:
    look = <NeoLook *> PyCapsule_GetPointer(direct.look, NEO_LOOK)


cdef object Tensor = torch.Tensor
cdef object stack_size = torch._C._len_torch_function_stack
cdef object stack_at = torch._C._get_function_stack_at
cdef object push = torch._C._push_on_torch_function_stack
cdef object pop = torch._C._pop_torch_function_stack
cdef object without_asking = torch._C._skip_one_hop_torch_function

blocks = 0
cdef dict answers = {}              # torch callable that draws -> (callable, args, kwargs) -> result
cdef object wanted = None           # does a block of this thread ask for draws of its own?
cdef dict handlers = {}             # the registry's table and its way with what is not in there
cdef object dispatch = None
cdef dict own = {}                  # handler -> is it Neo's, whose draws name their generator?


cdef class DrawsMode:
    """What torch asks, in place of carrying out a call, while this is on its stack; torch takes it off meanwhile."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        cdef bint lite = False, foreign = False
        if kwargs is None:
            kwargs = {}
        for cls in types:               # torch.Tensor is among them where a Python function of torch's asks
            if issubclass(cls, TensorBase):
                lite = True
            elif cls is not Tensor:
                foreign = True
        if lite and not foreign:
            if func not in answers and is_own(handlers.get(func)):
                return handlers[func](*args) if not kwargs else dispatch(func, args, kwargs)
            return switched_on(dispatch, (func, args, kwargs), {})
        if not wanted():
            return func(*args, **kwargs)
        answer = answers.get(func)
        if answer is not None:
            return answer(func, args, kwargs)
        if type(func) is FunctionType and not foreign and not lite and func.__module__ != "torch._tensor":
            return switched_on(without_asking, (func, types, args, kwargs), {})     # what it calls within is seen
        return func(*args, **kwargs)


cdef object MODE = DrawsMode()


cdef bint is_own(object handler) except -1:
    known = own.get(handler)
    if known is None:
        policy = getattr(handler, "policy", None)
        if policy is not None:
            known = policy.verified
        else:
            known = handler is not None and handler.__module__.startswith("neo.")
        own[handler] = known
    return known


cdef int switch(bint on) except -2:
    """0: as it was. Else what is to be undone: bit 0, pushed; bit 1, enabled; bit 2, disabled; bit 3, popped."""
    cdef int before, change = 0
    cdef Py_ssize_t i, n
    if not on:
        if look != NULL:
            before = look.torch_functions(ALL_DISABLED)
            if before == ENABLED:
                return 4
            look.torch_functions(before)
            return 0
        n = stack_size()
        if n == 0 or stack_at(n - 1) is not MODE:
            return 0
        pop()
        return 8
    if not wanted():
        return 0
    if look != NULL and look.torch_functions(ENABLED) == ALL_DISABLED:
        change = 2
    for i in range(stack_size()):
        if stack_at(i) is MODE:         # or below a mode of somebody else's, which passes on what it leaves alone
            return change
    push(MODE)
    return change | 1


cdef int undo(int change) except -1:
    cdef list others = []
    if change & 1:
        while True:
            top = pop()
            if top is MODE:
                break
            others.append(top)
        for top in reversed(others):
            push(top)
    if change & 2:
        look.torch_functions(ALL_DISABLED)
    elif change & 4:
        look.torch_functions(ENABLED)
    elif change & 8:
        push(MODE)
    return 0


def switched_on(fn, args, kwargs):
    """fn(*args, **kwargs) with the mode on, where a block of this thread asks for draws."""
    change = switch(True)
    try:
        return fn(*args, **kwargs)
    finally:
        undo(change)


def enter():
    """A block begins in this thread. Gives what leave() takes."""
    global blocks
    change = switch(True)
    blocks += 1
    return change


def leave(int change):
    """A block ends."""
    global blocks
    blocks -= 1
    undo(change)


def register_draws(dict table, asks):
    """Say who answers torch functions that draw, and who knows whether a block of this thread asks for draws."""
    global answers, wanted
    answers, wanted = table, asks


def register_dispatch(dict table, fallback):
    """Say who answers torch functions on LiteTensors."""
    global handlers, dispatch
    handlers, dispatch = table, fallback
