from libc.stdint cimport int32_t, int64_t

from neo.autograd._context cimport Context, PolicyBase
from neo.autograd._handle cimport Handle


cdef class BackwardFunction(PolicyBase):
    cdef object bwd_fn              # cotangents -> gradients, on LiteTensors


cdef class Node:
    cdef readonly PolicyBase policy # whose backward gives the gradients; a BackwardFunction for hand-made nodes
    cdef tuple given                # for hand-made nodes: (outputs, parents), kept alive
    cdef list tensors               # the tape's weak references by slot; shared, for inspection
    cdef int32_t *slots             # input slots, then output slots; -1: this tape has no interest in the input
    cdef int inputs                 # how many of `slots` are inputs
    cdef int outputs                # how many are outputs
    cdef list layouts               # per input (shape, dtype, device) to check gradients against, or None
    cdef list output_layouts        # the same of each output, when there are several
    cdef object autocast            # torch.autocast's state when a user's rule was recorded; None: it was off

    cdef int allot(self, int inputs, int outputs) except -1
    cdef object tensor_at(self, int index)


cdef class Tape:
    cdef readonly list nodes        # in order of recording
    cdef list tensors               # weak reference to the tensor of each slot, for inspection
    cdef list kept                  # the tensors themselves, where forward mode will need their shapes; else None
    cdef int64_t base               # handles with serial <= base are older than the tape
    cdef int32_t *table             # table[serial - base - 1] = slot, or -1
    cdef Py_ssize_t size            # entries of `table` in use
    cdef Py_ssize_t capacity        # entries allocated
    cdef int32_t slots              # slots handed out
    cdef dict older                 # serial -> slot, for watched handles older than the tape
    cdef bint freed                 # a walk has taken the nodes
    cdef object modes               # torch's grad and inference mode to go back to when this tape closes; None: neither
    cdef Py_ssize_t muted           # what Stack.muted was when this tape opened

    cdef int32_t slot_of(self, Handle handle)
    cdef int32_t slot_of_serial(self, int64_t serial)
    cdef int32_t new_slot(self, Handle handle) except -1
    cdef int set_slot(self, Handle handle, int32_t slot) except -1
    cdef int pull(self, list cotangents, bint keep) except -1


cdef class Stack:
    cdef list tapes                 # open tapes, outermost first
    cdef Py_ssize_t floor           # tapes below it are suspended by a checkpoint
    cdef Py_ssize_t closed          # tapes below it are closed to the forward of a user's Policy that runs: it has its inputs
    cdef Py_ssize_t muted           # tapes below it record nothing: a session was opened under torch.no_grad inside them
    cdef dict captured              # serial -> handle: what the checkpointed code took from suspended tapes
    cdef object observer            # told what tapes record and when they walk, for draw and gradcheck; None: nobody

    cdef Py_ssize_t first(self) except -1
    cdef bint listens(self, object value) except -1
    cdef bint tracks(self, int64_t serial) except -1
    cdef int capture(self, Handle handle) except -1


cdef Stack open_stack()             # this thread's stack, or None when no tape is open
cdef bint open_elsewhere(Stack stack)
cdef int refuse_other_threads(str name, Stack stack, object inputs) except -1
