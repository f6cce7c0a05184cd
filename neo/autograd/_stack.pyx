"""Levels: the stack of open tapes, and which of them records what (rule 3).

Every session opens a tape on its thread's stack and closes it when its function is done. A session inside a session is
one level further in. An op is recorded on each open tape that tracks one of its inputs, and on no other; what comes of
it is tracked by the same tapes. Take

    def outer(x):
        return x * neo.grad(lambda y: x * y**2, argnums=0)(x)
    neo.grad(outer, argnums=0)(x)                   # d/dx [x * d/dy (x * y**2) at y = x] = 6 x**2

While the inner function runs, both tapes are open. x is the outer session's, y the inner one's: y holds the numbers of x
and, to the outer tape, *is* x (both have one slot there), but the inner tape knows y alone, so that x is a constant to it:

      level   tape      tracks          has recorded
            +-------------------------------------------------------+
        1   | outer     x  y   p  q     p = y**2,   q = x * p       |
            |   +---------------------------------------------------+
        2   |   | inner     y   p  q    p = y**2,   q = x * p       |
            |   +---------------------------------------------------+
            +-------------------------------------------------------+

Then the inner tape is closed and walked back from q to y. Each rule it calls works on tensors that the outer tape tracks
(x, and p's saved y), so that the rules run on LiteTensors and their own ops are recorded at level 1, like any other:

      level   tape      tracks                  has recorded since
            +-------------------------------------------------------+
        1   | outer     x  y  p  q  p_bar  g    p_bar = q_bar * x   |
            |                                   g = p_bar * 2 y     |
            |                                   out = x * g         |
            +-------------------------------------------------------+

q_bar = 1 is tracked by nobody. Had no tape been open around the walk, or none that tracks anything the rules touch, they
would have run on torch tensors and recorded nothing: second order costs only where it is asked for. At last the outer
tape is closed and walked in the same way, on torch tensors, unless there is a third level around.

What narrows the tapes that record, from the outermost on (each is a count of tapes from the bottom of the stack):
- muted: below a session that was opened under torch.no_grad, which makes it a constant to those around (rule 11);
- floor: below a checkpoint, whose function runs unrecorded now, and again on the way back; what it takes from a
  suspended tape is captured, to be watched then;
- closed: below the forward of a user's Policy, which may use its arguments alone.
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

import torch

from neo.errors import SessionError
from neo.autograd._queries cimport grad_enabled
from neo.autograd._slots cimport TensorSlots
from neo.autograd._tensor cimport TensorBase, is_lite_tensor, wrap_as

cdef list stacks = []               # of every thread that has an open tape


cdef extern from *:
    """
    /* The stack of open tapes of each thread: rule 9. NULL when none is open, so an ended thread leaves nothing. */
    static _Thread_local PyObject *neo_thread_stack = NULL;
    """
    PyObject *neo_thread_stack


cdef class Stack:
    """The open tapes of one thread."""

    def __cinit__(self):
        self.tapes = []

    cdef Py_ssize_t first(self) except -1:
        """The outermost tape that ops concern now, be it suspended: none under torch.no_grad (rule 11)."""
        return self.muted if grad_enabled() else len(self.tapes)

    cdef Py_ssize_t first_recording(self) except -1:
        """The outermost tape that ops are recorded on now."""
        return max(self.floor, self.first())

    cdef bint tracks(self, object value) except -1:
        """Does any recording tape track `value`?"""
        return self.tracks_serial((<TensorBase> value).serial, self.first_recording()) if is_lite_tensor(value) else False

    cdef bint tracks_serial(self, int64_t serial, Py_ssize_t first) except -1:
        cdef Py_ssize_t i
        for i in range(first, len(self.tapes)):
            if (<TensorSlots> self.tapes[i]).slot_of_serial(serial) >= 0:
                return True
        return False

    cdef int capture(self, TensorBase tensor, Py_ssize_t first) except -1:
        """Under a checkpoint: note the use of a tensor that one of its suspended tapes, from `first` on, tracks."""
        cdef Py_ssize_t i
        for i in range(first, self.floor):
            if (<TensorSlots> self.tapes[i]).slot_of(tensor) >= 0:
                self.captured[tensor.serial] = wrap_as(tensor.data.detach(), tensor.serial)
                break
        return 0


class TapeContext:
    """This thread's stack of open tapes."""

    @staticmethod
    def push(tape):
        """Open `tape`: it records until it is popped. torch.no_grad and inference_mode around it change nothing for it."""
        global neo_thread_stack
        if not isinstance(tape, TensorSlots):
            raise TypeError(f"TapeContext.push: expected a Tape, got {type(tape).__name__}")
        cdef Stack stack = open_stack()
        if stack is None:
            stack = Stack()
            Py_INCREF(stack)
            neo_thread_stack = <PyObject *> stack
            stacks.append(stack)
        if not grad_enabled():
            leave_modes(stack)
        stack.tapes.append(tape)
        (<TensorSlots> tape).opened()
        if stack.observer is not None:
            stack.observer.opened(tape)

    @staticmethod
    def pop():
        """Close the innermost open tape and return it. Raises IndexError when none is open."""
        global neo_thread_stack
        cdef Stack stack = open_stack()
        if stack is None or len(stack.tapes) <= stack.floor:
            raise IndexError("TapeContext.pop: no tape is open in this thread")
        tape = stack.tapes.pop()
        (<TensorSlots> tape).closed()
        if stack.modes:
            enter_modes(stack)
        if stack.observer is not None:
            stack.observer.closed(tape)
        if not stack.tapes:
            stacks.remove(stack)
            neo_thread_stack = NULL
            Py_DECREF(stack)
        return tape

    @staticmethod
    def current():
        """The innermost open tape, None when there is none."""
        cdef Stack stack = open_stack()
        if stack is None or len(stack.tapes) <= stack.floor:
            return None
        return stack.tapes[len(stack.tapes) - 1]


cdef Stack open_stack():
    return None if neo_thread_stack == NULL else <Stack> neo_thread_stack


cdef int use_outer_levels(Stack stack, Py_ssize_t count) except -1:
    """Have this thread see the `count` outermost tapes of its stack alone, until use_all_levels: for a forward level's rules."""
    global neo_thread_stack
    cdef Stack outer
    cdef Py_ssize_t place = index_of(stack)
    if count == 0:
        del stacks[place]
        neo_thread_stack = NULL
        return 0
    outer = Stack()
    outer.tapes = stack.tapes[:count]
    outer.floor, outer.closed, outer.muted = min(stack.floor, count), min(stack.closed, count), min(stack.muted, count)
    outer.captured, outer.observer = stack.captured, stack.observer
    Py_INCREF(outer)
    neo_thread_stack = <PyObject *> outer
    stacks[place] = outer
    return 0


cdef int use_all_levels(Stack stack, Py_ssize_t count) except -1:
    """Back to the whole stack, after use_outer_levels(stack, count)."""
    global neo_thread_stack
    cdef Stack outer = open_stack()
    if count == 0:
        stacks.append(stack)
    else:
        stacks[index_of(outer)] = stack
    neo_thread_stack = <PyObject *> stack
    if count:
        Py_DECREF(outer)
    return 0


cdef Py_ssize_t index_of(Stack stack) except -1:
    cdef Py_ssize_t i
    for i in range(len(stacks)):
        if stacks[i] is stack:
            return i
    raise RuntimeError("TapeContext: the stack of this thread is not known")


# --- torch's grad modes (rule 11) ------------------------------------------------------------------------------------


cdef int leave_modes(Stack stack) except -1:
    """Leave torch's no_grad and inference modes while the next tape is open, to whose session they change nothing."""
    cdef object guard = None
    if torch.is_inference_mode_enabled():
        guard = torch.inference_mode(False)
        guard.__enter__()
    was = torch.is_grad_enabled()
    torch._C._set_grad_enabled(True)
    if stack.modes is None:
        stack.modes = []
    stack.modes.append((len(stack.tapes), stack.muted, was, guard))
    stack.muted = len(stack.tapes)
    return 0


cdef int enter_modes(Stack stack) except -1:
    """Go back to the modes that were left for the tape that has just been closed, if any."""
    place, muted, was, guard = stack.modes[len(stack.modes) - 1]
    if place != len(stack.tapes):
        return 0
    stack.modes.pop()
    stack.muted = muted
    torch._C._set_grad_enabled(was)
    if guard is not None:
        guard.__exit__(None, None, None)
    return 0


# --- other threads (rules 9 and 13) ----------------------------------------------------------------------------------


cdef list all_stacks():
    return stacks


cdef bint open_elsewhere(Stack stack):
    """Has a thread other than this one an open tape?"""
    return len(stacks) > (0 if stack is None else 1)


cdef int refuse_other_threads(str name, Stack stack, object inputs) except -1:
    """Rule 13: what a session of another thread differentiates would be a silent constant here."""
    cdef Stack other
    if not grad_enabled():
        return 0
    for other in list(stacks):
        if other is stack:
            continue
        for tape in list(other.tapes):
            for value in inputs:
                if is_lite_tensor(value) and (<TensorSlots> tape).slot_of(<TensorBase> value) >= 0:
                    raise SessionError(
                        f"{name}: a tensor of shape {tuple(value.shape)} is differentiated by a session that another "
                        f"thread has open, which cannot record what happens in this one. Run the whole session in one "
                        f"thread (a value_and_grad for each task, in the thread of its task), or pass tensor.detach() "
                        f"for a constant.")
    return 0


# --- checkpoints, and observers --------------------------------------------------------------------------------------


def suspended(fn):
    """Run fn() with every open tape suspended; for checkpoint.

    fn must return (list of leaves, anything). What it does is recorded nowhere, except on tapes that it opens itself.
    Returns fn's result and the list of LiteTensors it took from the suspended tapes.
    """
    cdef Stack stack = open_stack()
    cdef Py_ssize_t floor
    cdef dict outer, taken
    if stack is None:
        return fn(), []
    floor, outer = stack.floor, stack.captured
    stack.floor, stack.captured = len(stack.tapes), {}
    try:
        result = fn()
        for leaf in result[0]:
            if is_lite_tensor(leaf):
                stack.capture(leaf, stack.first())
        taken = stack.captured
    finally:
        stack.floor, stack.captured = floor, outer
    if floor:       # a checkpoint within a checkpoint: what the inner one took, the outer one took too
        for tensor in taken.values():
            stack.capture(tensor, stack.first())
    return result, list(taken.values())


def tracked_here(values):
    """For each of these LiteTensors, whether a recording tape tracks it; a checkpoint around notes its use."""
    cdef Stack stack = open_stack()
    if stack is not None and stack.floor:
        for value in values:
            stack.capture(<TensorBase?> value, stack.first())
    return [stack is not None and stack.tracks(value) for value in values]


def observe(observer):
    """Have `observer` (autograd.session.trace.Trace) told what this thread's tapes record, until the last of them closes.

    None: nobody. Gives the observer before it. Raises RuntimeError when no tape is open.
    """
    cdef Stack stack = open_stack()
    if stack is None:
        raise RuntimeError("observe: no tape is open in this thread")
    before, stack.observer = stack.observer, observer
    return before
