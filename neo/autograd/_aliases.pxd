from neo.autograd._handle cimport Handle


cdef int join(Handle view, Handle source) except -1
