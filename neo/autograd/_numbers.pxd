cdef class Numbers:
    cdef readonly str op            # the op's name, for messages
    cdef tuple names                # by position: the parameter's name where it takes a number, None where a tensor
    cdef str rest                   # the name of *args where those are numbers, else None
    cdef readonly int first         # the first position that takes a number; a call with no more arguments needs no look
    cdef readonly frozenset keywords    # every parameter that takes a number
    cdef frozenset scalars          # those for which a floating-point tensor stays one, as it gets a gradient

    cdef tuple checked(self, tuple args)
    cdef object number(self, object value, str name)
