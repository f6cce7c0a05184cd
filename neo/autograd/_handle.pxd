from libc.stdint cimport int64_t


cdef class Handle:
    cdef readonly object data       # torch.Tensor, detached; a torch.Tensor object no other handle shares
    cdef int64_t serial             # 1, 2, 3, ... in order of creation; never used twice in a process
    cdef object __weakref__         # lets a tape show its nodes' tensors without keeping them alive


cdef bint is_handle(object value)
cdef Handle wrap(object data)
cdef int64_t last_serial()
