from libc.stdint cimport int64_t


cdef class TensorBase:
    cdef readonly object data       # torch.Tensor, detached; a torch.Tensor object no other LiteTensor shares
    cdef int64_t serial             # 1, 2, 3, ... in order of creation; never used twice in a process
    cdef list aliases               # weak references to the LiteTensors known to lie on the same memory; None: none other
    cdef int64_t branch             # 0, or what tells a detached tensor and its views from what they were detached of
    cdef object __weakref__         # lets a tape show its nodes' tensors without keeping them alive


cdef class IdentityListener:
    """Told, from `listen` to `stop_listening`, when one more LiteTensor comes to stand for a tensor that exists."""

    cdef int another(self, TensorBase tensor) except -1


cdef int listen(IdentityListener listener) except -1
cdef int stop_listening(IdentityListener listener) except -1
cdef int tell_another(TensorBase tensor) except -1
cdef bint is_lite_tensor(object value)
cdef TensorBase wrap(object data)
cdef TensorBase wrap_as(object data, int64_t serial)
cdef bint begin_answer() noexcept
cdef void end_answer() noexcept
cdef int64_t last_serial()
