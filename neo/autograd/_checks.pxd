from neo.autograd._context cimport PolicyBase


cdef tuple entries(PolicyBase policy, bint forward, object result, int count)
cdef object check_gradient(PolicyBase policy, int i, object gradient, tuple layout, bint casts)
cdef object check_tangent(PolicyBase policy, int i, object tangent, object output, bint casts)
cdef int refuse_stashed_tensors(PolicyBase policy) except -1
cdef int check_inputs(str name, tuple raw_inputs, list versions) except -1
cdef int check_outputs(str name, tuple outputs) except -1
cdef int refuse_complex(str name, object arguments) except -1
cdef int refuse_closed_over(str name, object value) except -1
cdef int name_error(str name, object error) except -1
