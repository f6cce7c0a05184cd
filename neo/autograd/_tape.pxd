from neo.autograd._context cimport PolicyBase
from neo.autograd._node cimport Node
from neo.autograd._slots cimport TensorSlots
from neo.autograd._stack cimport Stack


cdef class Tape(TensorSlots):
    cdef readonly list nodes        # in order of recording
    cdef bint freed                 # a walk has taken the nodes

    cdef int enter(self, Node node, PolicyBase policy, tuple inputs, tuple outputs, bint all_floating) except -1
    cdef int record(self, Node node, PolicyBase policy, tuple inputs, tuple outputs, bint all_floating) except -1
    cdef int walk(self, list cotangents, bint keep) except -1


cdef object accumulate(object a, object b)
cdef tuple layout(object tensor)
