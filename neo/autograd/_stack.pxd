from libc.stdint cimport int64_t

from neo.autograd._tensor cimport TensorBase


cdef class Stack:
    cdef list tapes                 # open tapes, outermost first
    cdef list modes                 # of those opened under torch.no_grad: (place, muted and torch's modes before); or None
    cdef Py_ssize_t floor           # tapes below it are suspended by a checkpoint
    cdef Py_ssize_t closed          # tapes below it are closed to the forward of a user's Policy that runs: it has its inputs
    cdef Py_ssize_t muted           # tapes below it record nothing: a session was opened under torch.no_grad inside them
    cdef dict captured              # serial -> tensor: what the checkpointed code took from suspended tapes; else None
    cdef object observer            # told what tapes record and when they walk, for draw and gradcheck; None: nobody

    cdef Py_ssize_t first(self) except -1
    cdef bint tracks(self, object value) except -1
    cdef bint tracks_serial(self, int64_t serial, Py_ssize_t first) except -1
    cdef Py_ssize_t first_recording(self) except -1
    cdef int capture(self, TensorBase tensor, Py_ssize_t first) except -1


cdef int use_outer_levels(Stack stack, Py_ssize_t count) except -1
cdef int use_all_levels(Stack stack, Py_ssize_t count) except -1
cdef Stack open_stack()             # this thread's stack, or None when no tape is open
cdef list all_stacks()              # of every thread that has an open tape
cdef bint open_elsewhere(Stack stack)
cdef int refuse_other_threads(str name, Stack stack, object inputs) except -1
