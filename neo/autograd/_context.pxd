from libc.stdint cimport int64_t


cdef class Context:
    cdef object owner               # the Policy class, for messages and for replaying forward
    cdef tuple arguments            # forward's arguments, with LiteTensors: kept only if an intermediate was saved
                                    #   (a higher order replays forward) or stashed on self (it refuses), or if the
                                    #   Policy is once_differentiable (it differentiates the composition)
    cdef list inputs                # of a once_differentiable Policy: (torch tensor, its in-place version) of each input
    cdef readonly tuple saved       # what forward gave to save(), as given: raw tensors and plain values
    cdef list counterparts               # for each saved thing: its LiteTensor, or INTERMEDIATE, or None (plain or constant)
    cdef int64_t few[6]             # where `versions` and `serials` are, if no more than three things are saved
    cdef int64_t *versions          # for each saved thing: its in-place version when saved, -1 for plain values
    cdef int64_t *serials           # for each saved thing that has a LiteTensor: the serial number it had when saved;
                                    #   the second half of `versions`
    cdef list constants             # what forward gave to constant(), in order
    cdef Py_ssize_t replayed        # how many of `constants` a replay has handed out; -1 when not replaying
    cdef int tensors                # number of tensor inputs
    cdef unsigned long long wanted  # bit i: input i needs its gradient
    cdef bint lite                # release gives LiteTensors, for an outer session tracks them
    cdef readonly bint recorded              # some tape will call backward: keep what is saved
    cdef bint readable              # release is open: backward is about to run

    cdef int refuse_changed(self) except -1
    cdef int keep_arguments(self, tuple arguments, tuple raw_inputs) except -1
    cdef int seal(self, tuple arguments, tuple inputs, tuple raw_inputs, tuple outputs, tuple raw_outputs) except -1


cdef class PolicyBase:
    cdef public Context ctx

    cdef str rule_name(self)
    cdef object rule(self, bint forward)


cdef tuple shallow_copies(tuple arguments)
cdef bint contains(object sequence, object value) except -1
cdef object rebuilt(object container, list items)
cdef str stashed(PolicyBase policy)
