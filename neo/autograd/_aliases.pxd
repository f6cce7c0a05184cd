from neo.autograd._tensor cimport TensorBase


cdef int add_alias(TensorBase view, TensorBase source) except -1
