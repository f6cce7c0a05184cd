from libc.stdint cimport int32_t

from neo.autograd._node cimport Node
from neo.autograd._tape cimport Tape
from neo.autograd._tensor cimport TensorBase


cdef class Tangents:
    cdef list dots                  # None: zero
    cdef list holders               # how many LiteTensors stand for it

    cdef int release(self, int32_t slot) except -1


cdef class ForwardTape(Tape):
    cdef Tangents tangents
    cdef list holders               # weak references to all LiteTensors that stand for the tensors tracked here
    cdef public bint own_rules      # refuse what has no jvp, in place of transposing its backward

    cdef object dot(self, int32_t slot)
    cdef int hold(self, int32_t slot, TensorBase tensor) except -1
    cdef int move(self, Node node, tuple outputs, Py_ssize_t levels) except -1
    cdef bint push(self, Node node) except -1
