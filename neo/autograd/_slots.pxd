from libc.stdint cimport int32_t, int64_t

from neo.autograd._tensor cimport IdentityListener, TensorBase


cdef class TensorSlots(IdentityListener):
    cdef list tensors               # weak reference to the tensor of each slot, for inspection
    cdef list kept                  # the tensors themselves, where forward mode will need their shapes; else None
    cdef int64_t base               # tensors with serial <= base are older than the tape
    cdef int32_t *table             # table[serial - base - 1] = slot, or -1
    cdef Py_ssize_t size            # entries of `table` in use
    cdef Py_ssize_t capacity        # entries allocated
    cdef int32_t count              # slots handed out
    cdef dict older                 # serial -> slot, for watched tensors older than the tape

    cdef int32_t slot_of(self, TensorBase tensor)
    cdef bint tracks_any(self, tuple values)
    cdef int32_t slot_of_serial(self, int64_t serial)
    cdef int32_t new_slot(self, TensorBase tensor) except -1
    cdef int set_slot(self, TensorBase tensor, int32_t slot) except -1
    cdef int opened(self) except -1         # called by the stack when the tape is opened, and when it is closed
    cdef int closed(self) except -1
    cdef int alias(self, TensorBase fresh, TensorBase tensor) except -1
