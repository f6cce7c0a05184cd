from libc.stdint cimport int64_t

cdef enum:
    UNCOUNTED = -2                  # the version of tensors made under torch.inference_mode, which counts nothing


cdef bint alike(object one, object other) except -1
cdef bint grad_enabled() except -1
cdef bint alone(object tensor) except -1
cdef bint share(object one, object other) except -1
cdef bint autocast_on() except -1
cdef bint mixed(tuple tensors) except -1
cdef int64_t version_of(object tensor) except -1
