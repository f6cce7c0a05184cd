"""Which tensors a tape tracks: each has a slot, a small number.

Tensors older than the tape cannot be on it, unless they are watched, so that looking one up is indexing an array by
(serial - base): no hashing, and no tensor is kept alive. Two tensors with one slot are the same tensor to the tape.
"""
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from neo.autograd._tensor cimport IdentityListener, TensorBase, is_lite_tensor, last_serial, wrap_as


cdef class TensorSlots(IdentityListener):
    """The tensors that a tape tracks: what it watches, and what came of that."""

    def __cinit__(self, bint keep_tensors=False):
        self.tensors = []
        self.base = last_serial()
        if keep_tensors:
            self.kept = []

    def __dealloc__(self):
        free(self.table)

    def __contains__(self, TensorBase tensor):
        """Does this tape track `tensor`?"""
        return self.slot_of(tensor) >= 0

    def watch(self, TensorBase tensor not None):
        """Track `tensor`: every op on it, and on what comes of it, is recorded from now on."""
        if self.slot_of(tensor) < 0:
            self.new_slot(tensor)

    cdef int32_t slot_of(self, TensorBase tensor):
        return self.slot_of_serial(tensor.serial)

    cdef bint tracks_any(self, tuple values):
        """Is any of these values a tensor that this tape tracks?"""
        cdef Py_ssize_t i
        for i in range(len(values)):
            if is_lite_tensor(values[i]) and self.slot_of(<TensorBase> values[i]) >= 0:
                return True
        return False

    cdef int32_t slot_of_serial(self, int64_t serial):
        """The slot of the tensor with this serial number; -1: not tracked."""
        cdef int64_t index = serial - self.base - 1
        if index < 0:
            return -1 if self.older is None else <int32_t> self.older.get(serial, -1)
        return self.table[index] if index < self.size else -1

    cdef int32_t new_slot(self, TensorBase tensor) except -1:
        cdef int32_t slot = self.count
        self.set_slot(tensor, slot)
        if self.kept is not None:       # one of its own: in-place work in torch code may rebind the other
            tensor = wrap_as(tensor.data, tensor.serial)
            self.kept.append(tensor)
        self.tensors.append(PyWeakref_NewRef(tensor, None))
        self.count += 1
        return slot

    cdef int set_slot(self, TensorBase tensor, int32_t slot) except -1:
        cdef int64_t index = tensor.serial - self.base - 1
        cdef Py_ssize_t capacity
        cdef int32_t *table
        if index < 0:
            if self.older is None:
                self.older = {}
            self.older[tensor.serial] = slot
            return 0
        if index >= self.size:
            if index >= self.capacity:
                capacity = max(64, 2 * (index + 1))
                table = <int32_t *> realloc(self.table, capacity * sizeof(int32_t))
                if table == NULL:
                    raise MemoryError()
                self.table = table
                self.capacity = capacity
            memset(self.table + self.size, 0xFF, (index + 1 - self.size) * sizeof(int32_t))    # all bits one: -1
            self.size = index + 1
        self.table[index] = slot
        return 0

    cdef int opened(self) except -1:
        return 0

    cdef int closed(self) except -1:
        return 0

    cdef int alias(self, TensorBase fresh, TensorBase tensor) except -1:
        """Take `fresh` for the same tensor as `tensor`, if that is tracked."""
        cdef int32_t slot = self.slot_of(tensor)
        if slot >= 0:
            self.set_slot(fresh, slot)
        return 0
