cdef int blocks                     # `with draws(...)` blocks that are open now, in all threads together

cdef int switch(bint on) except -2  # the mode of this thread on or off; gives what undo() takes
cdef int undo(int change) except -1
